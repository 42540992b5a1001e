"""Packs that follow a canary and do not serve: what their template may cause takes all back."""

from __future__ import annotations

from typing import Any

import pytest

from rollout_world import CHANGED, DEADLINE, ENGINE, FIXED, NO_GPU, progressing, settled
from slm_operator.cli.rollout_commands import undoing


@pytest.mark.parametrize("spec", [{}, FIXED], ids=["found", "fixed"])
@pytest.mark.parametrize("gpus", [9, 3], ids=["surge", "full"])
def test_a_later_pack_that_the_template_breaks_rolls_all_back(
    spec: dict[str, Any], gpus: int
) -> None:
    world = settled({"packs": 3} | spec, gpus)
    before = world.template
    world.change({**CHANGED, **DEADLINE})
    world.fails_later[world.template] = "EngineArgumentInvalid"
    while "CanaryPassed" not in world.events:
        world.run(1)
    decision = world.run(60)
    assert progressing(decision)[1] == "PacksUpdating", "it is given the deadline"
    decision = world.run(300)
    status, reason, message = progressing(decision)
    assert (status, reason) == ("False", "RolledBack")
    assert "a pack that followed the first one did not serve within 90s" in message
    assert "EngineArgumentInvalid: no such argument" in message
    assert world.templates() == {before}
    assert (decision.status.ready_packs, world.fewest_ready) == (3, 3 if gpus == 9 else 2)
    rollout = decision.status.rollout
    assert rollout is not None and rollout.stable is not None
    assert (rollout.stable.hash, rollout.previous) == (before, None)
    plans = [world.servers[uid].plan for uid in world.packs]
    assert {p.layout.replicas for p in plans if p is not None} == {2}
    made = world.made
    world.run(300)
    assert world.made == made, "what was rolled back is not tried again"
    assert world.events.count("RolledBack") == 1


def test_packs_keep_their_layout_when_the_template_before_comes_back() -> None:
    world = settled({"packs": 3})
    kept = set(world.packs)
    world.change({**CHANGED, **DEADLINE})
    world.fails_later[world.template] = "EngineArgumentInvalid"
    while "RolledBack" not in world.events:
        world.run(1)
    starts = {uid: server.starts for uid, server in world.servers.items()}
    world.run(200)
    # The one that measures anew is started in other layouts.
    kept = (kept & set(world.packs)) - {world.memory.explorer}
    assert kept
    assert {uid: world.servers[uid].starts for uid in kept} == {uid: starts[uid] for uid in kept}


@pytest.mark.parametrize("reason", ["DeviceFault", "ModelUnreachable"])
def test_what_its_node_keeps_a_later_pack_from_is_said_and_waited_for(reason: str) -> None:
    world = settled()
    world.change({**CHANGED, **DEADLINE})
    world.fails_later[world.template] = reason
    decision = world.run(400)
    status, said, message = progressing(decision)
    assert (status, said) == ("False", "ProgressDeadlineExceeded")
    assert f"{reason}: no such argument" in message
    assert decision.status.ready_packs == 2
    for server in world.servers.values():
        server.fails = ""
    assert progressing(world.run(60))[:2] == ("True", "RolloutComplete")


def test_a_later_pack_without_a_gpu_is_said_and_waited_for() -> None:
    world = settled({"packs": 3})
    world.change({**CHANGED, **DEADLINE})
    while "CanaryPassed" not in world.events:
        world.run(1)
    world.gpus = 0
    decision = world.run(400)
    status, said, message = progressing(decision)
    assert (status, said) == ("False", "ProgressDeadlineExceeded")
    assert f"Unschedulable: {NO_GPU.message}" in message
    assert world.fewest_ready == 2
    world.gpus = 9
    assert progressing(world.run(120))[:2] == ("True", "RolloutComplete")


def test_a_pause_holds_what_goes_back_too() -> None:
    world = settled({"packs": 3} | FIXED)
    before = world.template
    world.change({**CHANGED, **DEADLINE})
    world.fails_later[world.template] = "EngineArgumentInvalid"
    while "RolledBack" not in world.events:
        world.run(1)
    world.change({"rollout": {**DEADLINE["rollout"], "paused": True}})
    packs = set(world.packs)
    assert progressing(world.run(60))[1] == "RolledBack"
    assert len(world.packs) == 3 and set(world.packs) <= packs
    world.change(DEADLINE)
    world.run(120)
    assert world.templates() == {before}


def test_a_pause_before_the_deadline_rolls_nothing_back() -> None:
    world = settled({"packs": 3} | FIXED)
    world.change({**CHANGED, **DEADLINE})
    world.fails_later[world.template] = "EngineArgumentInvalid"
    while "CanaryPassed" not in world.events:
        world.run(1)
    world.run(20)
    world.change({"rollout": {**DEADLINE["rollout"], "paused": True}})
    assert progressing(world.run(300))[1] == "RolloutPaused"
    world.change(DEADLINE)
    assert progressing(world.run(60))[1] == "PacksUpdating", "the deadline begins anew"
    assert progressing(world.run(60))[1] == "RolledBack"


def test_another_measure_meanwhile_leaves_the_way_back() -> None:
    world = settled({"packs": 3} | FIXED)
    before = world.template
    world.change({**CHANGED, "rollout": {"progressDeadline": "1h"}})
    world.fails_later[world.template] = "EngineArgumentInvalid"
    while "CanaryPassed" not in world.events:
        world.run(1)
    world.run(20)
    world.change(DEADLINE)
    assert progressing(world.run(300))[1] == "RolledBack"
    assert world.templates() == {before}


def test_a_change_that_was_taken_back_leads_no_further_back() -> None:
    world = settled({"packs": 3} | FIXED)
    world.change({**CHANGED, **DEADLINE})
    world.run(200)
    proven = world.service.spec
    world.change({"engine": ENGINE | {"args": ["--broken"]}})
    world.run(2)
    world.change({"engine": proven.engine.model_dump(by_alias=True)})
    for server in world.servers.values():
        server.fails = "EngineArgumentInvalid"
    decision = world.run(300)
    assert progressing(decision)[1] != "RolledBack"
    assert decision.status.rollout is not None and decision.status.rollout.stable is not None
    assert decision.status.rollout.stable.hash == world.template


def test_taking_a_change_back_after_a_later_pack_broke_ends_the_rollout() -> None:
    world = settled({"packs": 3} | FIXED)
    before = world.service.spec
    world.change({**CHANGED, **DEADLINE})
    world.fails_later[world.template] = "EngineArgumentInvalid"
    while "RolledBack" not in world.events:
        world.run(1)
    undo = undoing(world.service)
    assert set(undo) == {"engine"}
    world.change({"engine": before.engine.model_dump(by_alias=True)})
    decision = world.run(120)
    assert progressing(decision)[:2] == ("True", "RolloutComplete")
    assert world.templates() == {world.template}
    assert world.fewest_ready == 3


def test_packs_that_break_once_all_run_the_template_are_no_rollout_any_more() -> None:
    world = settled({"packs": 2} | FIXED)
    world.change({**CHANGED, **DEADLINE})
    assert progressing(world.run(120))[1] == "RolloutComplete"
    for server in world.servers.values():
        server.fails = "EngineArgumentInvalid"
    assert progressing(world.run(200))[1] == "RolloutComplete"
