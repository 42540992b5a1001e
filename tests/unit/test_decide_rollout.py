"""A change of the template: one pack is tried, the others follow or stay as they were."""

from __future__ import annotations

from typing import Any

import pytest

from builders import service
from rollout_world import CHANGED, ENGINE, FIXED, IMAGE, World, progressing, settled
from slm_operator.decide.rollout import with_template
from slm_operator.render import children


def test_a_change_is_tried_measured_and_follows_everywhere() -> None:
    world = settled()
    before = world.template
    world.change(CHANGED)
    decision = world.run(4)
    assert progressing(decision)[1] in ("CanaryStarting", "CanaryMeasuring")
    assert world.templates() == {before, world.template}
    assert decision.status.operating_point is not None
    decision = world.run(120)
    assert world.templates() == {world.template}
    assert progressing(decision)[:2] == ("True", "RolloutComplete")
    assert world.fewest_ready == 2
    assert [e for e in world.events if e.startswith(("Canary", "Rollout"))] == [
        "CanaryPassed",
        "RolloutComplete",
    ]
    rollout = decision.status.rollout
    assert rollout is not None and rollout.stable is not None and rollout.previous is not None
    assert (rollout.stable.hash, rollout.previous.hash) == (world.template, before)
    assert decision.status.condition("Ready").status == "True"  # type: ignore[union-attr]


def test_packs_that_follow_a_canary_start_with_its_layout() -> None:
    world = settled()
    world.change(CHANGED)
    while world.service.status.rollout.phase != "Progressing":  # type: ignore[union-attr]
        world.run(1)
    status = world.service.status
    assert status.calibration is not None and status.calibration.chosen is not None
    assert status.calibration.chosen.replicas_per_pack == 2
    assert [p.replicas_per_pack for p in status.frontier] == [2]


def test_a_canary_starts_in_the_layout_that_the_others_keep_while_one_searches_anew() -> None:
    world = settled()
    calibration = {"promptTokens": 999, "outputTokens": 99}
    autoscaling = {"maxReplicasPerPack": 4, "calibration": calibration}
    world.change(CHANGED | {"autoscaling": autoscaling})
    assert world.second().status.frontier == (), "a search begins"
    canary = None
    while canary is None:
        assert progressing(world.second())[1] == "CanaryStarting"
        canary = next(s.plan for s in world.servers.values() if s.template == world.template)
    others = [s.plan for s in world.servers.values() if s.template != world.template]
    assert [plan and plan.layout.replicas for plan in (canary, *others)] == [2, 3, 2]


def test_more_energy_than_allowed_rolls_back_and_says_both_numbers() -> None:
    world = settled()
    before = world.template
    world.change(CHANGED)
    world.energy[world.template] = 1.2
    decision = world.run(60)
    status, reason, message = progressing(decision)
    assert (status, reason) == ("False", "RolledBack")
    assert "0.0500 J against 0.0416 J before (+20 %)" in message
    assert "maxEnergyIncreasePercent allows 10 %" in message
    assert world.templates() == {before}
    assert world.fewest_ready == 2
    made = world.made
    world.run(300)
    assert world.made == made, "what was rolled back is not tried again"
    assert world.events.count("RolledBack") == 1
    world.change({"rollout": {"maxEnergyIncreasePercent": 25}})
    decision = world.run(120)
    assert progressing(decision)[:2] == ("True", "RolloutComplete")
    assert world.templates() == {world.template}


def test_energy_does_not_compare_across_models() -> None:
    world = settled()
    world.change({"model": {"uri": "hf://facebook/opt-2.7b"}})
    world.energy[world.template] = 2.0
    assert progressing(world.run(150))[:2] == ("True", "RolloutComplete")


def test_a_broken_slo_rolls_back() -> None:
    slo = {"autoscaling": {"maxReplicasPerPack": 4, "slo": {"itlP95": "40ms"}}}
    world = settled(slo)
    before = world.template
    world.change(CHANGED)
    world.itl[world.template] = 0.06
    decision = world.run(60)
    assert progressing(decision)[1] == "RolledBack"
    assert "exceeds the limit of 40.0 ms" in progressing(decision)[2]
    assert world.templates() == {before}


@pytest.mark.parametrize("spec", [{}, FIXED], ids=["found", "fixed"])
def test_an_engine_that_does_not_start_rolls_back_with_its_words(spec: dict[str, Any]) -> None:
    world = settled(spec)
    before = world.template
    world.change({"engine": ENGINE | {"args": ["--broken"]}})
    world.fails.add(world.template)
    decision = world.run(40)
    assert progressing(decision)[1] == "RolledBack"
    assert "EngineArgumentInvalid: no such argument" in progressing(decision)[2]
    assert world.templates() == {before}
    assert world.fewest_ready == 2
    assert decision.status.condition("Ready").status == "True"  # type: ignore[union-attr]


def test_a_full_cluster_gives_a_packs_place_to_the_canary() -> None:
    world = settled(gpus=2)
    world.change(CHANGED)
    decision = world.run(30)
    assert "Insufficient nvidia.com/gpu" in progressing(decision)[2]
    assert decision.status.condition("GPUAllocated").status == "True"  # type: ignore[union-attr]
    decision = world.run(200)
    assert world.fewest_ready == 1
    assert world.templates() == {world.template}
    assert progressing(decision)[:2] == ("True", "RolloutComplete")
    assert decision.status.ready_packs == 2


def test_a_rollback_on_a_full_cluster_brings_the_place_back() -> None:
    world = settled(gpus=2)
    before = world.template
    world.change({"engine": ENGINE | {"args": ["--broken"]}})
    world.fails.add(world.template)
    decision = world.run(200)
    assert progressing(decision)[1] == "RolledBack"
    assert world.templates() == {before}
    assert (decision.status.ready_packs, world.fewest_ready) == (2, 1)


def test_a_canary_without_any_gpu_of_its_kind_takes_nobodys_place() -> None:
    world = settled({"gpu": {"kind": "Simulated"}} | FIXED, gpus=2)
    world.change(
        {"gpu": {"kind": "Simulated", "resourceName": "other/gpu"}, **CHANGED}
        | {"rollout": {"progressDeadline": "90s"}}
    )
    decision = world.run(200)
    assert world.fewest_ready == 2
    assert progressing(decision)[1] == "RolledBack"
    assert "got no further for 90s" in progressing(decision)[2]
    assert "Insufficient nvidia.com/gpu" in progressing(decision)[2]


def test_paused_nothing_is_replaced_and_lost_packs_come_back_as_they_were() -> None:
    world = settled(FIXED)
    before = world.template
    world.change({**CHANGED, "rollout": {"paused": True}})
    decision = world.run(20)
    assert progressing(decision)[:2] == ("Unknown", "RolloutPaused")
    lost = next(iter(world.packs))
    del world.packs[lost]
    decision = world.run(20)
    assert world.templates() == {before}
    assert decision.status.ready_packs == 2
    world.change({"rollout": {"paused": False}})
    assert progressing(world.run(60))[:2] == ("True", "RolloutComplete")
    assert world.templates() == {world.template}


def made_room(phase: str) -> World:
    """In ``phase`` of a rollout on a full cluster, in which an outdated pack went first."""
    world = settled({"packs": 3}, gpus=3)
    world.change(CHANGED)
    while (rollout := world.service.status.rollout) is None or (
        (rollout.phase, rollout.places, len(world.packs)) != (phase, 3, 3)
    ):
        world.run(1)
    return world


ROOM_MADE = pytest.mark.parametrize("phase", ["Canary", "Progressing"])


@ROOM_MADE
def test_paused_on_more_gpus_more_packs_come_and_stay_when_it_goes_on(phase: str) -> None:
    world = made_room(phase)
    world.gpus = 9
    world.change({"packs": 6, "rollout": {"paused": True}})
    decision = world.run(30)
    assert progressing(decision)[1] == "RolloutPaused"
    assert decision.status.ready_packs >= 6
    world.change({"rollout": {"paused": False}})
    assert progressing(world.run(150))[:2] == ("True", "RolloutComplete")
    assert world.fewest_ready >= 6
    assert world.templates() == {world.template}


@ROOM_MADE
def test_paused_on_a_full_cluster_packs_stay_as_they_are(phase: str) -> None:
    world = made_room(phase)
    world.run(2)
    packs = set(world.packs)
    world.change({"rollout": {"paused": True}})
    world.run(200)
    assert set(world.packs) == packs


def test_paused_while_the_canary_waits_for_a_gpu_no_pack_makes_room() -> None:
    world = settled(gpus=2)
    world.change(CHANGED)
    world.run(30)
    world.change({"rollout": {"paused": True}})
    assert world.run(200).status.ready_packs == 2
    assert world.fewest_ready == 2


def test_taking_the_change_back_ends_the_rollout() -> None:
    world = settled(FIXED)
    before = world.service.spec
    world.change({"engine": ENGINE | {"args": ["--broken"]}})
    world.fails.add(world.template)
    world.run(40)
    world.change(before.model_dump(by_alias=True))
    decision = world.run(10)
    assert progressing(decision)[:2] == ("True", "RolloutComplete")
    assert world.templates() == {world.template}


def test_the_first_template_is_no_rollout_and_a_broken_one_is_simply_replaced() -> None:
    world = World({"packs": 2, "engine": ENGINE | {"args": ["--broken"]}} | FIXED)
    world.fails.add(world.template)
    world.run(30)
    world.change({"engine": ENGINE})
    decision = world.run(60)
    assert progressing(decision)[:2] == ("True", "RolloutComplete")
    assert world.templates() == {world.template}


def test_the_kept_template_renders_the_same_packs() -> None:
    world = settled(FIXED | CHANGED)
    status = world.service.status.rollout
    assert status is not None and status.stable is not None
    other = service({"packs": 2, "engine": ENGINE} | FIXED)
    assert children.template_hash(with_template(other, status.stable), IMAGE) == status.stable.hash
