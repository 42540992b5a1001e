"""One service's passes, played against packs that serve the published H100 curve."""

from __future__ import annotations

from typing import Any

import pytest

from builders import pack, pack_state, service
from decide_world import RULES, World, condition, look
from slm_operator.decide.decision import decide
from slm_operator.decide.snapshot import Memory, Snapshot, Trouble
from slm_worker.planning.memory import ModelFootprint
from slm_worker.planning.packing import max_replicas
from slm_worker.wire import Counters, LoadState, Problem, ReplicaPhase


def test_it_walks_to_two_replicas_and_says_why() -> None:
    world = World(service())
    decision = world.run(60)
    assert world.probed == [(3, 2, 256), (3, 3, 256), (1, 1, 256), (2, 2, 256), (2, 2, 256)]
    assert world.plan is not None
    assert world.plan.load is None
    point = decision.status.operating_point
    assert point is not None
    assert (point.replicas_per_pack, point.output_tokens_per_second) == (2, 10642)
    assert point.joules_per_output_token == "0.0416"
    assert condition(decision, "Calibrated")[:2] == ("True", "KneeFound")
    assert [(e.reason, e.rule) for e in decision.status.history] == [
        ("Probed", "NextInRotation"),
        ("Probed", "FewerInOwnLayout"),
        ("Probed", "OwnLayout"),
        ("KneeFound", "StepWorthIt"),
    ]
    assert [p.chosen for p in decision.status.frontier] == [False, False, False, True]


def test_an_unchanged_state_is_no_write() -> None:
    world = World(service())
    world.run(60)
    before = world.writes
    world.run(120)
    assert world.writes == before


def test_a_measurement_that_runs_is_one_write_not_one_a_second() -> None:
    world = World(service())
    world.tick()
    world.tick()
    before = world.writes
    world.run(4)
    assert world.writes == before


def test_an_operator_restarted_in_mid_search_goes_on_from_the_status() -> None:
    world = World(service())
    world.run(12)
    done = list(world.probed)
    assert 1 < len(done) < 4
    world.memory = Memory()
    world.run(60)
    assert world.probed[: len(done)] == done
    assert len(world.probed) == len(set(world.probed)) + 1


def test_a_load_that_the_agent_ended_for_want_of_an_operator_is_planned_anew() -> None:
    world = World(service())
    world.run(8)
    measured = world.plan
    assert measured is not None and measured.load is not None
    world.plan = measured.model_copy(update={"load": None})
    world.settled_since = world.seconds
    world.tick()
    assert world.plan == measured.model_copy(update={"generation": measured.generation + 1})
    assert condition(world.run(120), "Calibrated")[:2] == ("True", "KneeFound")


def test_a_changed_model_drops_the_points_and_searches_anew() -> None:
    world = World(service())
    measured = len(world.run(60).status.frontier)
    changed = service({"model": {"uri": "hf://facebook/opt-350m"}}, world.service.status)
    world.service = changed
    decision = world.tick()
    assert decision.status.frontier == ()
    assert condition(decision, "Calibrated")[1] == "Searching"
    (event,) = decision.events
    assert event.reason == "SearchReopened"
    assert event.message.startswith(
        "ConfigurationChanged: model, engine, image, arguments, calibration load or GPU settings "
        f"changed, so {measured} points no longer count; next: "
    )
    entry = decision.status.history[-1]
    assert (entry.from_, entry.to) == ("2 replicas x 256", "2 replicas x 256 (of 3 started)")
    assert world.tick().events == (), "it is told once"


def test_recommend_measures_and_then_runs_what_it_ran_before() -> None:
    spec = {
        "replicasPerPack": 1,
        "autoscaling": {"mode": "Recommend", "maxReplicasPerPack": 4},
    }
    world = World(service(spec))
    decision = world.run(60)
    assert world.plan is not None
    assert world.plan.layout.replicas == 1
    assert decision.status.recommended_replicas_per_pack == 2
    assert decision.status.operating_point is None
    assert condition(decision, "ScalingActive")[:2] == ("False", "RecommendOnly")
    assert "KneeRecommended" in world.events


def test_a_fixed_count_is_run_and_nothing_is_searched() -> None:
    world = World(service({"replicasPerPack": 3, "autoscaling": None}))
    decision = world.run(10)
    assert world.probed == [(3, 3, 256)]
    assert condition(decision, "Calibrated")[:2] == ("True", "FixedReplicas")
    assert decision.status.calibration is not None
    assert decision.status.calibration.phase == "Fixed"


def test_no_more_replicas_are_tried_than_fit() -> None:
    world = World(service(), max_replicas=2)
    decision = world.run(60)
    assert max(layout for layout, _, _ in world.probed) == 2
    assert condition(decision, "PackingFeasible")[:2] == ("True", "FewerFit")


def test_what_cannot_fit_is_said_with_the_sum_and_planned_never() -> None:
    decision = look(service(), pack(pack_state(max_replicas=0)))
    assert decision.plans == ()
    assert condition(decision, "PackingFeasible")[:2] == ("False", "DoesNotFit")
    assert "the sum" in condition(decision, "Ready")[2]


def test_what_cannot_fit_comes_with_the_sum_line_by_line_and_what_would_make_it_fit() -> None:
    model = ModelFootprint(
        weights_bytes=15 * 2**30, kv_bytes_per_token=2**17, max_model_len=131_072
    )
    state = pack_state()
    small = state.gpu.model_copy(update={"memory_bytes": 24 * 2**30, "kind": "NVIDIA"})
    packing = max_replicas(model, small)
    decision = look(service(), pack(state.model_copy(update={"gpu": small, "packing": packing})))
    status, reason, message = condition(decision, "PackingFeasible")
    assert (status, reason) == ("False", "DoesNotFit")
    assert message.startswith("0 replicas fit, 1 are wanted: Of 24.0 GiB 2.4 GiB are kept free")
    for part in ("weights 15.0 GiB (estimated)", "for one sequence of 131,072 tokens 16.0 GiB"):
        assert part in message
    assert message.endswith(
        "What would make it fit: --max-model-len 28928, or a GPU with at least 38 GiB."
    )
    assert condition(decision, "Ready")[2] == message


def test_a_layout_that_cannot_start_is_given_up_for_what_did_start() -> None:
    world = World(service())
    world.tick()
    state = world.state()
    failing = state.replicas[2].model_copy(
        update={
            "phase": ReplicaPhase.FAILED,
            "failures": 3,
            "problem": Problem(reason="EngineExited", message="no idea", since_seconds=0.0),
        }
    )
    state = state.model_copy(
        update={
            "replicas": (*state.replicas[:2], failing),
            "settled": False,
        }
    )
    decision = look(world.service, pack(state))
    assert [(u.replicas, u.max_num_seqs) for u in decision.memory.unstartable] == [(3, 256)]
    assert [p.layout.replicas for _, p in decision.plans] == [2]
    assert "LayoutFailed" in [e.reason for e in decision.events]
    (entry,) = decision.status.history
    assert (entry.rule, entry.from_, entry.to) == (
        "LayoutFailed",
        "3 replicas x 256",
        "2 replicas x 256",
    )
    told = world.service.model_copy(update={"status": decision.status})
    restarted = look(told, pack(state))
    assert restarted.events == (), "an operator that restarts tells nothing twice"
    assert restarted.status.history == decision.status.history
    once = failing.model_copy(update={"failures": 1})
    healing = state.model_copy(update={"replicas": (*state.replicas[:2], once)})
    assert look(world.service, pack(healing)).memory.unstartable == ()


def test_a_lone_replica_that_cannot_start_is_given_up_and_the_best_known_runs_again() -> None:
    world = World(service())
    while world.plan is None or world.plan.layout.replicas != 1:
        world.tick()
    (replica,) = world.state().replicas
    failing = replica.model_copy(
        update={
            "phase": ReplicaPhase.FAILED,
            "failures": 3,
            "problem": Problem(reason="EngineExited", message="no idea", since_seconds=0.0),
        }
    )
    state = world.state().model_copy(update={"replicas": (failing,), "settled": False})
    decision = look(world.service, pack(state), memory=world.memory)
    assert [p.layout.replicas for _, p in decision.plans] == [2], "packing has nothing to beat"
    world.service = world.service.model_copy(update={"status": decision.status})
    world.memory = decision.memory
    ((_, world.plan),) = decision.plans
    world.settled_since = world.seconds
    decision = world.run(20)
    assert world.plan.layout.replicas == 2 and world.plan.load is None
    assert condition(decision, "Calibrated")[:2] == ("True", "KneeFound")
    assert condition(decision, "PackingFeasible")[:2] == ("True", "FewerStarted")


def test_a_lost_poll_does_not_move_the_search_to_another_pack() -> None:
    two = service({"packs": 2})
    first = look(two, pack(pack_state()), pack(pack_state(), 1))
    silent = pack(None, silence=Trouble("AgentUnreachable", "gone"))
    rest = pack_state(first.plans[1][1])
    second = look(two, silent, pack(rest, 1), memory=first.memory)
    assert second.plans == ()


def test_a_node_that_is_not_heard_of_is_why_its_pack_is_not_ready_and_no_pack_is_moved() -> None:
    lost = Trouble("NodeNotReady", "the node gpu-7 does not report")
    decision = look(
        service({"packs": 2}), pack(pack_state()), pack(pack_state(), 1, ready=False, node=lost)
    )
    assert condition(decision, "Ready") == ("False", lost.reason, lost.message)
    assert (decision.pods.create, decision.pods.delete) == ((), ())


def test_points_of_another_gpu_do_not_count() -> None:
    world = World(service())
    world.run(60)
    state = world.state()
    moved = state.model_copy(
        update={"gpu": state.gpu.model_copy(update={"name": "Simulated B200"})}
    )
    decision = look(world.service, pack(moved))
    assert decision.status.frontier == ()
    assert condition(decision, "Calibrated")[1] == "Searching"
    assert [e.reason for e in decision.events] == ["SearchReopened"]
    assert decision.events[0].message.startswith("ConfigurationChanged: the GPU, or the way")


def test_another_batch_in_the_spec_is_measured_anew() -> None:
    world = World(service())
    world.run(60)
    engine = {"kind": "Simulated", "maxNumSeqs": 512}
    decision = look(service({"engine": engine}, world.service.status), pack(world.state()))
    assert [p.layout.max_num_seqs for _, p in decision.plans] == [512]
    assert [(e.reason, e.rule) for e in decision.status.history[-1:]] == [
        ("SearchReopened", "PointMissing")
    ]
    assert decision.status.operating_point is None


def test_a_fixed_count_that_does_not_fit_is_said_by_ready() -> None:
    fixed = service({"replicasPerPack": 6, "autoscaling": None})
    decision = look(fixed, pack(pack_state(max_replicas=4), ready=False))
    assert condition(decision, "Ready")[:2] == ("False", "DoesNotFit")


def test_a_choice_that_changes_without_a_new_search_is_told() -> None:
    world = World(service())
    world.run(60)
    demanding = {"maxReplicasPerPack": 4, "minThroughputGainPercent": 50}
    changed = service({"autoscaling": demanding}, world.service.status)
    decision = look(changed, pack(world.state()), memory=world.memory)
    assert decision.status.recommended_replicas_per_pack == 1
    (event,) = decision.events
    assert event.reason == "KneeFound"
    assert event.message.startswith("FewerSuffice (outputTokensPerSecond 7,887 against 11,830): ")


def test_what_was_chosen_stays_while_another_point_is_better_only_within_the_doubt() -> None:
    world = World(service())
    status = world.run(60).status
    assert status.calibration is not None and status.calibration.chosen is not None
    assert status.calibration.chosen.replicas_per_pack == 2
    noisy = {
        "output_tokens_per_second": 10_700,
        "confidence_tokens_per_second": 600,
    }
    frontier = tuple(
        p.model_copy(update=noisy) if p.layout_replicas == p.replicas_per_pack == 1 else p
        for p in status.frontier
    )
    again = status.model_copy(update={"frontier": frontier})
    wanted = world.service.model_copy(update={"status": again})
    kept = look(wanted, pack(world.state()), memory=world.memory)
    assert kept.status.recommended_replicas_per_pack == 2
    forgotten = again.calibration.model_copy(update={"chosen": None}) if again.calibration else None
    wanted = world.service.model_copy(
        update={"status": again.model_copy(update={"calibration": forgotten})}
    )
    anew = look(wanted, pack(world.state()), memory=world.memory)
    assert anew.status.recommended_replicas_per_pack == 1


def test_only_one_of_several_packs_explores_and_all_get_the_knee() -> None:
    two = service({"packs": 2})
    first = look(two, pack(pack_state()), pack(pack_state(), 1))
    assert [p.load is None for _, p in first.plans] == [False, True]
    world = World(service())
    world.run(60)
    settled = service({"packs": 2}, world.service.status)
    after = look(settled, pack(world.state()), pack(pack_state(), 1))
    assert [(p.name, plan.layout.replicas) for p, plan in after.plans] == [("chat-pack-1", 2)]


@pytest.mark.parametrize(
    ("wrong", "kind", "reason"),
    [
        ({"scheduling": Trouble("Unschedulable", "0/1 nodes")}, "GPUAllocated", "Unschedulable"),
        ({"container": Trouble("CrashLoopBackOff", "exit 2")}, "Ready", "CrashLoopBackOff"),
        ({"silence": Trouble("AgentRefusedToken", "401")}, "MetricsAvailable", "AgentRefusedToken"),
        ({"silence": Trouble("AgentUnreachable", "gone")}, "Ready", "AgentUnreachable"),
    ],
)
def test_a_pack_in_trouble_is_a_condition_and_one_warning(
    wrong: dict[str, Any], kind: str, reason: str
) -> None:
    troubled = pack(None, **wrong)
    decision = look(service(), troubled)
    assert condition(decision, kind)[:2] == ("False", reason)
    assert [e.reason for e in decision.events] == [reason]
    again = look(service(status=decision.status), troubled)
    assert again.events == ()


def test_what_the_agent_reports_is_the_reason_of_ready() -> None:
    problem = Problem(reason="ModelNotFound", message="no such directory", since_seconds=1.0)
    state = pack_state(packing=None, problem=problem)
    decision = look(service(), pack(state, ready=False))
    assert condition(decision, "Ready") == ("False", "ModelNotFound", "no such directory")
    assert decision.plans == ()


def test_a_silent_pack_does_not_undo_what_was_found() -> None:
    world = World(service())
    world.run(60)
    silent = pack(None, silence=Trouble("AgentUnreachable", "gone"))
    decision = look(world.service, silent)
    before = world.service.status
    assert decision.status.frontier == before.frontier
    assert decision.status.operating_point == before.operating_point
    assert condition(decision, "Calibrated")[:2] == ("True", "KneeFound")
    assert decision.status.calibration is not None
    assert decision.status.calibration.phase == "Done"


def test_unsaturated_windows_hold_and_say_so() -> None:
    world = World(service())
    world.tick()
    for second in range(30):
        counters = Counters(sampled_at_seconds=100.0 + second, output_tokens=10 * second)
        state = pack_state(world.plan, counters=counters)
        decision = look(world.service, pack(state), memory=world.memory)
        world.memory = decision.memory
        world.service = world.service.model_copy(update={"status": decision.status})
    assert condition(decision, "Calibrated")[:2] == ("False", "NotSaturated")
    assert decision.status.frontier == ()


def test_a_load_of_which_requests_fail_measures_nothing_and_says_why() -> None:
    world = World(service())
    world.tick()
    for second in range(30):
        state = pack_state(
            world.plan,
            counters=Counters(
                sampled_at_seconds=100.0 + second,
                output_tokens=1000 * second,
                saturated_seconds=float(second),
            ),
            load=LoadState(
                completed=9 * second, failed=second, last_failure="HTTP 400: too long for the model"
            ),
        )
        decision = look(world.service, pack(state), memory=world.memory)
        world.memory = decision.memory
        world.service = world.service.model_copy(update={"status": decision.status})
    status, reason, message = condition(decision, "Calibrated")
    assert (status, reason) == ("False", "LoadFails")
    assert message.endswith("the load's last failure: HTTP 400: too long for the model")
    assert decision.status.frontier == ()


def test_times_of_conditions_change_only_with_their_status() -> None:
    first = look(service(), pack(None))
    later = decide(
        Snapshot(service(status=first.status), "2026-01-01T01:00:00Z", (pack(None),)), RULES, "t"
    )
    # What goes on for an hour is no progress.
    steady = [c for c in later.status.conditions if c.type != "Progressing"]
    assert {c.last_transition_time for c in steady} == {"2026-01-01T00:00:00Z"}
