"""What may be under way in the mortal world: a spec, a change of it, and what an operator does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mortal_world import Operator, World

SIMULATED: dict[str, Any] = {
    "model": {"uri": "hf://facebook/opt-1.3b"},
    "engine": {"kind": "Simulated", "maxNumSeqs": 256},
    "gpu": {"kind": "Simulated"},
}


def fixed(packs: int) -> dict[str, Any]:
    return SIMULATED | {"replicasPerPack": 2, "packs": packs}


SEARCHING = SIMULATED | {"autoscaling": {"maxReplicasPerPack": 3}}


@dataclass(frozen=True)
class Scenario:
    before: dict[str, Any] | None
    """The spec that is in place when the change comes; None: there is no service yet."""
    change: dict[str, Any]
    does: Callable[[Operator], Awaitable[None]] = Operator.work


async def finalizes(operator: Operator) -> None:
    await operator.end_the_service()


SCENARIOS = {
    "a new service": Scenario(None, fixed(2)),
    "more packs": Scenario(fixed(1), {"packs": 3}),
    "fewer packs": Scenario(fixed(3), {"packs": 1}),
    "a change of the template": Scenario(
        fixed(2), {"engine": SIMULATED["engine"] | {"args": ["--max-model-len=1024"]}}
    ),
    "a change of the layout": Scenario(fixed(2), {"replicasPerPack": 3}),
    "a search": Scenario(None, SEARCHING),
    "a deletion": Scenario(fixed(2), {}, finalizes),
}


async def begin(scenario: Scenario) -> World:
    world = World(scenario.before or SIMULATED)
    if scenario.before is not None:
        await Operator(world).work()
    world.change(scenario.change)
    for counted in (world.created, world.deleted, world.told):
        counted.clear()
    return world
