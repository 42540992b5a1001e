"""An operator that is killed at any await of any pass: another goes on, and the end is the same.

Each call to the API server and to an agent is killed before it is sent, and again when it was done
but its answer has not been read.
"""

from __future__ import annotations

import copy

import pytest

from mortal_scenarios import SCENARIOS, Scenario, begin, finalizes
from mortal_world import Killed, Operator


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
