"""A minute of the soak: the rest of its half hour is ``python -m benchmarks.faults_soak``."""

from __future__ import annotations

from benchmarks.fault_rig.belongings import Belongings
from benchmarks.fault_rig.incidents import account
from benchmarks.faults_soak import soak

SECONDS = 45.0
LOOK_SECONDS = 15.0
SEED = 7
"""In its first steps: plans, a fault of the whole set, one while a plan is carried out, a killed
replica, a killed router."""
FILES_OF_A_MOMENT = 8
"""Connections that the agent happens to have while it is looked at."""


async def test_after_random_faults_nothing_is_lost_and_nothing_left() -> None:
    diary, load, left = await soak(SECONDS, SEED, LOOK_SECONDS)
    assert account(load.failures, diary.incidents).unexplained == ()
    assert load.sent == load.ended.total()
    assert left == ()

    looks = diary.looks
    assert len(looks) >= 3
    assert {steady(one) for one in looks} == {steady(looks[0])}
    files = [one.agent.files for one in looks]
    assert max(files) - min(files) <= FILES_OF_A_MOMENT


def steady(held: Belongings) -> tuple[int, int, int]:
    """What is the same at every look at one plan."""
    return held.processes, held.listening_ports, held.files
