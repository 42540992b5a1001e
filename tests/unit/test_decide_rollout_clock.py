"""A rollout's deadline goes by a clock that only runs forward, however the wall clock is set."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rollout_world import CHANGED, DEADLINE, World, progressing, settled

SET_BY = pytest.mark.parametrize(
    "clock_error_seconds", [pytest.param(900, id="forward"), pytest.param(-900, id="back")]
)


def measuring() -> World:
    """A change whose canary is measured."""
    world = settled()
    world.change({**CHANGED, **DEADLINE})
    while progressing(world.run(1))[1] != "CanaryMeasuring":
        pass
    return world


@SET_BY
def test_a_canary_that_is_measured_while_the_clock_is_set_passes(clock_error_seconds: int) -> None:
    world = measuring()
    world.clock_error_seconds = clock_error_seconds
    assert progressing(world.run(120))[1] == "RolloutComplete"
    assert "RolledBack" not in world.events


@SET_BY
def test_packs_that_follow_while_the_clock_is_set_have_the_whole_deadline(
    clock_error_seconds: int,
) -> None:
    world = measuring()
    world.fails_later[world.template] = "EngineArgumentInvalid"
    while "CanaryPassed" not in world.events:
        world.run(1)
    world.run(30)
    world.clock_error_seconds = clock_error_seconds
    assert progressing(world.run(30))[1] == "PacksUpdating"
    assert progressing(world.run(60))[1] == "RolledBack"


@SET_BY
def test_one_without_a_gpu_is_given_up_after_the_deadline_and_no_later(
    clock_error_seconds: int,
) -> None:
    world = settled(gpus=2)
    world.change({**CHANGED, **DEADLINE, "gpu": {"kind": "Simulated", "resourceName": "other/gpu"}})
    world.run(30)
    world.clock_error_seconds = clock_error_seconds
    assert progressing(world.run(50))[1] == "CanaryStarting"
    assert progressing(world.run(60))[1] == "RolledBack"


def test_an_operator_that_is_restarted_begins_the_deadline_anew() -> None:
    world = settled(gpus=2)
    world.change({**CHANGED, **DEADLINE, "gpu": {"kind": "Simulated", "resourceName": "other/gpu"}})
    world.run(80)
    world.memory = replace(world.memory, progressed=None)
    assert progressing(world.run(80))[1] == "CanaryStarting"
    assert progressing(world.run(20))[1] == "RolledBack"
