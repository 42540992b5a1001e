"""A template that changes while no pack runs waits for the next pack, and is tried beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rollout_world import CHANGED, ENGINE, World, progressing, settled
from slm_operator.decide.decision import STEADY_POLL_SECONDS, Decision
from slm_operator.decide.snapshot import Activation

HOLDS = Activation(port=20000, address="10.0.0.9")
IDLE_SECONDS = 60
SLEEPS: dict[str, Any] = {
    "packs": 1,
    "replicasPerPack": 2,
    "autoscaling": {"minPacks": 0, "maxPacks": 2, "scaleDownStabilization": f"{IDLE_SECONDS}s"},
    "gpu": {"kind": "Simulated"},
    "rollout": {"progressDeadline": "90s"},
}
PAST_DEADLINE_SECONDS = 200
OTHER_GPU = {"gpu": {"kind": "Simulated", "resourceName": "other/gpu"}, **CHANGED}
"""Of which the cluster has none beside the pack that serves."""


def serving(gpus: int = 9) -> World:
    """With one pack, and a request at the activator that keeps it."""
    world = settled({"packs": 2} | SLEEPS, gpus, replace(HOLDS, held=1))
    assert len(world.packs) == 1
    return world


def asleep() -> World:
    world = serving()
    world.activation = HOLDS
    while world.packs:
        world.run(1)
    world.run(1)
    return world


def changed_by_the_spec(world: World) -> None:
    world.change(CHANGED)


def changed_by_an_upgrade(world: World) -> None:
    world.image = "w:2"


CHANGES = pytest.mark.parametrize(
    "change", [changed_by_the_spec, changed_by_an_upgrade], ids=["spec", "upgrade"]
)


@CHANGES
def test_at_zero_no_deadline_passes_and_the_next_pack_brings_the_trial(change: Any) -> None:
    world = asleep()
    change(world)
    decision = world.run(PAST_DEADLINE_SECONDS)
    assert phase(decision) == "Canary"
    status, reason, message = progressing(decision)
    assert (status, reason) == ("True", "ScaledToZero")
    assert "no pack runs, so the changed template waits" in message
    assert not world.packs
    world.activation = replace(HOLDS, held=1)
    assert len(world.run(2).pods.canary) == 1, "as soon as the pack that answers is asked for"
    assert progressing(world.run(1))[1] == "CanaryStarting"
    assert progressing(world.run(30))[:2] == ("True", "RolloutComplete")
    assert world.templates() == {world.template}
    assert "RolledBack" not in world.events


@CHANGES
def test_meanwhile_nothing_is_written_and_nobody_looks_often(change: Any) -> None:
    world = asleep()
    change(world)
    before = world.run(2)
    after = world.run(PAST_DEADLINE_SECONDS)
    assert after.status == before.status
    assert after.poll_seconds == STEADY_POLL_SECONDS


def test_the_deadline_begins_when_a_pack_is_wanted() -> None:
    world = asleep()
    world.change(OTHER_GPU)
    world.run(PAST_DEADLINE_SECONDS)
    world.gpus = 1
    world.activation = replace(HOLDS, held=1)
    assert phase(world.run(80)) == "Canary"
    assert progressing(world.run(20))[1] == "RolledBack"


def test_what_was_rolled_back_before_is_not_tried_again_when_a_pack_comes_back() -> None:
    world = serving()
    before = world.template
    world.change({"engine": ENGINE | {"args": ["--broken"]}})
    world.fails.add(world.template)
    while "RolledBack" not in world.events:
        world.run(1)
    world.activation = HOLDS
    while world.packs:
        world.run(1)
    world.run(PAST_DEADLINE_SECONDS)
    world.activation = replace(HOLDS, held=1)
    decision = world.run(60)
    assert phase(decision) == "RolledBack"
    assert world.templates() == {before}


@pytest.mark.parametrize("after_seconds", [1, PAST_DEADLINE_SECONDS])
def test_a_change_that_is_taken_back_at_zero_is_complete(after_seconds: int) -> None:
    world = asleep()
    before = world.service.spec.engine.model_dump(by_alias=True)
    world.change(CHANGED)
    world.run(30)
    world.change({"engine": before})
    decision = world.run(after_seconds)
    assert phase(decision) == "Complete"
    assert progressing(decision)[:2] == ("True", "RolloutComplete")


def test_none_goes_to_zero_while_the_canary_is_tried() -> None:
    world = serving(gpus=1)
    world.change({**OTHER_GPU, "rollout": {"progressDeadline": "1h"}})
    world.run(2)
    packs = set(world.packs)
    world.activation = HOLDS
    decision = world.run(3 * IDLE_SECONDS)
    assert (phase(decision), decision.status.desired_packs) == ("Canary", 1)
    assert set(world.packs) == packs, "the canary waits for its GPU"
    world.gpus = 2
    decision = world.run(3 * IDLE_SECONDS)
    assert (phase(decision), decision.status.desired_packs) == ("Complete", 0)
    assert "RolledBack" not in world.events


def test_a_paused_trial_keeps_no_pack_and_goes_on_with_the_next() -> None:
    world = serving(gpus=1)
    world.change(OTHER_GPU)
    world.run(2)
    assert len(world.packs) == 2
    world.change({"rollout": SLEEPS["rollout"] | {"paused": True}})
    world.activation = HOLDS
    decision = world.run(3 * IDLE_SECONDS)
    assert (phase(decision), decision.status.desired_packs) == ("Paused", 0)
    world.change({"rollout": SLEEPS["rollout"]})
    assert phase(world.run(PAST_DEADLINE_SECONDS)) == "Canary"


def phase(decision: Decision) -> str:
    assert decision.status.rollout is not None
    return decision.status.rollout.phase
