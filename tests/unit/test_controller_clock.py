"""A wall clock that is wrong, or jumps: what is decided goes by clocks that only run forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mortal_scenarios import SCENARIOS, SEARCHING, Scenario, begin
from mortal_world import Operator, World

HOUR_SECONDS, DAY_SECONDS, YEAR_SECONDS = 3600.0, 86_400.0, 365 * 86_400.0
SOON_SECONDS = 8.0
"""Within the first windows of a search."""


def always(error_seconds: float) -> Callable[[float], float]:
    return lambda _: error_seconds


CLOCKS: dict[str, Callable[[float], float]] = {
    "a year behind": always(-YEAR_SECONDS),
    "a year ahead": always(YEAR_SECONDS),
    "set back by a day": lambda seconds: -DAY_SECONDS if seconds > SOON_SECONDS else 0.0,
    "set forward by an hour": lambda seconds: HOUR_SECONDS if seconds > SOON_SECONDS else 0.0,
    "to and fro each second": lambda seconds: HOUR_SECONDS * (-1) ** int(seconds),
}


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS.keys())
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())
async def test_a_wrong_clock_changes_nothing_in_the_end(
    scenario: Scenario, clock: Callable[[float], float]
) -> None:
    right, wrong = await begin(scenario), await begin(scenario)
    await scenario.does(Operator(right))
    wrong.clock_error_seconds = clock
    await scenario.does(Operator(wrong))
    assert end_of(wrong) == end_of(right)
    assert wrong.told == right.told


def end_of(world: World) -> dict[str, Any]:
    """Points in any order: in the status they are in that of their dates. A service that was
    deleted has none."""
    end = dict(world.end())
    status = dict(end["status"] or {})
    if "frontier" in status:
        points = status["frontier"]
        status["frontier"] = {(p["layoutReplicas"], p["replicasPerPack"]): p for p in points}
        assert len(status["frontier"]) == len(points)
    return end | {"status": status}


async def test_a_clock_that_jumps_by_a_day_makes_nothing_written_in_a_settled_service() -> None:
    world = World(SEARCHING)
    operator = Operator(world)
    await operator.work()
    assert world.service["status"]["recommendedReplicasPerPack"] == 2
    settled, writes = world.end(), world.writes
    for error in (DAY_SECONDS, -DAY_SECONDS, 0.0):
        world.clock_error_seconds = always(error)
        await operator.work()
        assert (world.end(), world.writes) == (settled, writes)
