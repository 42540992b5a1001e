"""An operator that is killed at any await of any pass: another goes on, and the end is the same.

Each call to the API server and to an agent is killed before it is sent, and again when it was done
but its answer has not been read.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from mortal_world import Killed, Operator, World

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


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())
async def test_a_kill_at_any_await_changes_nothing_in_the_end(scenario: Scenario) -> None:
    start = await begin(scenario)
    whole = copy.deepcopy(start)
    undisturbed = Operator(whole)
    await scenario.does(undisturbed)
    assert undisturbed.life.moments > 0
    for moment in range(undisturbed.life.moments):
        world = copy.deepcopy(start)
        killed = Operator(world, last_moment=moment)
        with pytest.raises(Killed):
            await scenario.does(killed)
        await goes_on(Operator(world), scenario)
        where = f"killed at moment {moment}, {killed.life.awaited}"
        assert world.end() == whole.end(), where
        assert world.told <= whole.told, f"{where}: an event was told twice"


async def goes_on(successor: Operator, scenario: Scenario) -> None:
    if scenario.does is finalizes:
        # Kopf starts no daemon for an object that is being deleted: it lets go of it.
        successor.world.collect_garbage()
    else:
        await scenario.does(successor)
