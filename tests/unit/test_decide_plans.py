"""Which packs may restart their replicas for another layout, while others serve."""

from __future__ import annotations

from typing import Any

import pytest

from builders import pack, pack_state, service
from decide_world import World, condition, look
from slm_operator.api.models import SLMService
from slm_operator.decide.calibrate import plan
from slm_operator.decide.decision import STARTING_POLL_SECONDS, STEADY_POLL_SECONDS, Decision
from slm_operator.decide.snapshot import Pack, Trouble
from slm_operator.pareto.points import Probe
from slm_worker.wire import Layout, Load, Plan, Problem

OLD, NEW = 2, 3
SERVICE = service({"packs": 3, "replicasPerPack": NEW, "autoscaling": None})


def layout(replicas: int) -> Plan:
    return plan(Probe(replicas, replicas, 256), None, None)


def runs(replicas: int, ordinal: int, *, settled: bool = True, **changes: Any) -> Pack:
    state = pack_state(layout(replicas), settled=settled)
    return pack(state, ordinal, **changes)


def told(*packs: Pack) -> Decision:
    return look(SERVICE, *packs)


def sent(*packs: Pack) -> list[tuple[int, int]]:
    """Ordinal and replicas of each plan."""
    return [(pack.ordinal, plan.layout.replicas) for pack, plan in told(*packs).plans]


def test_of_packs_that_serve_one_at_a_time_changes_its_layout() -> None:
    assert sent(runs(OLD, 0), runs(OLD, 1), runs(OLD, 2)) == [(0, NEW)]
    assert sent(runs(NEW, 0, settled=False), runs(OLD, 1), runs(OLD, 2)) == []
    assert sent(runs(NEW, 0), runs(OLD, 1), runs(OLD, 2)) == [(1, NEW)]
    assert sent(runs(NEW, 0), runs(NEW, 1), runs(NEW, 2)) == []


def test_one_that_lacks_replicas_goes_first() -> None:
    assert sent(runs(OLD, 0), runs(OLD, 1, settled=False)) == [(1, NEW)]


def test_one_that_does_not_serve_need_not_wait() -> None:
    packs = runs(NEW, 0, settled=False), runs(OLD, 1, ready=False), pack(pack_state(), 2)
    assert sent(*packs) == [(1, NEW), (2, NEW)]


def test_what_restarts_nothing_is_sent_to_all_at_once() -> None:
    fewer = Plan(generation=1, layout=Layout(replicas=NEW, max_num_seqs=256), rotation=1)
    assert sent(*(pack(pack_state(fewer), number) for number in range(3))) == [
        (0, NEW),
        (1, NEW),
        (2, NEW),
    ]


@pytest.mark.parametrize(
    ("wrong", "waits"),
    [
        ({}, True),
        ({"ready": True}, False),
        ({"node": Trouble("NodeNotReady", "gone")}, False),
        ({"container": Trouble("CrashLoopBackOff", "exit 2")}, False),
    ],
)
def test_it_waits_for_a_silent_pack_that_may_be_restarting(
    wrong: dict[str, Any], waits: bool
) -> None:
    silent = {"silence": Trouble("AgentUnreachable", "no answer"), "ready": False}
    assert sent(pack(None, 0, **(silent | wrong)), runs(OLD, 1)) == ([] if waits else [(1, NEW)])


def test_the_one_that_explores_waits_for_no_sick_one_and_the_others_for_it() -> None:
    searched = service({"packs": 2})
    sick = runs(1, 1, settled=False)
    decision = look(searched, runs(1, 0), sick)
    assert [pack.ordinal for pack, _ in decision.plans] == [0]
    assert decision.plans[0][1].load is not None
    assert [pack.ordinal for pack, _ in look(searched, runs(1, 0), runs(5, 1)).plans] == [0]


def test_it_looks_again_soon_until_all_have_changed() -> None:
    assert told(runs(NEW, 0), runs(NEW, 1, settled=False)).poll_seconds == STARTING_POLL_SECONDS
    assert told(runs(NEW, 0), runs(OLD, 1), runs(NEW, 2)).poll_seconds == STARTING_POLL_SECONDS
    assert told(runs(NEW, 0), runs(NEW, 1), runs(NEW, 2)).poll_seconds == STEADY_POLL_SECONDS


def progressing(*packs: Pack) -> tuple[str, str, str]:
    condition = told(*packs).status.condition("Progressing")
    assert condition is not None
    return condition.status, condition.reason, condition.message


def test_packs_that_wait_for_their_turn_are_named() -> None:
    status, reason, message = progressing(runs(OLD, 0), runs(OLD, 1), runs(OLD, 2))
    assert (status, reason) == ("True", "LayoutChanging")
    names = [pack.name for pack in (runs(OLD, 0), runs(OLD, 1), runs(OLD, 2))]
    assert f"{names[0]} does, {names[1]}, {names[2]} serve as before" in message
    on_its_way = progressing(runs(NEW, 0, settled=False), runs(OLD, 1), runs(OLD, 2))
    assert on_its_way == (status, reason, message), "the same text until the next one's turn"
    done = progressing(runs(NEW, 0), runs(NEW, 1), runs(OLD, 2))
    assert done[:2] == ("True", "RolloutComplete"), "nobody waits"


def test_one_that_holds_the_others_up_is_told_with_cause_and_remedy() -> None:
    silent = pack(None, 0, ready=False, silence=Trouble("AgentUnreachable", "no answer"))
    status, reason, message = progressing(silent, runs(OLD, 1))
    assert (status, reason) == ("False", "LayoutHeldUp")
    assert f"until {silent.name} serves in the new one" in message
    assert "AgentUnreachable: no answer" in message
    assert f"kubectl delete pod {silent.name}" in message


def test_nobody_is_told_to_wait_while_one_explores() -> None:
    decision = look(service({"packs": 2}), runs(1, 0), runs(5, 1))
    condition = decision.status.condition("Progressing")
    assert condition is not None and condition.reason == "RolloutComplete"


class TestSmallerGpu:
    """A pack whose GPU holds fewer replicas than the others'."""

    def on(self, most: int, replicas: int = 0, ordinal: int = 1) -> Pack:
        return pack(pack_state(layout(replicas) if replicas else None, max_replicas=most), ordinal)

    def settled(self, **bounds: int) -> SLMService:
        """Where two replicas were chosen on a larger one."""
        status = World(service()).run(60).status
        assert status.recommended_replicas_per_pack == 2
        return service({"packs": 2, "autoscaling": {"maxReplicasPerPack": 4, **bounds}}, status)

    def test_it_runs_as_many_of_the_chosen_as_fit(self) -> None:
        decision = look(self.settled(), self.on(8, 2, 0), self.on(1))
        told = [(p.ordinal, plan.layout.replicas, plan.rotation) for p, plan in decision.plans]
        assert told == [(1, 1, 1)]
        done = look(self.settled(), self.on(8, 2, 0), self.on(1, 1))
        assert done.plans == ()
        status, reason, message = condition(done, "PackingFeasible")
        assert (status, reason) == ("True", "FewerFit")
        assert message.startswith("on the GPU of chat-pack-1 1 replicas fit, so it runs no more")
        assert condition(done, "Ready")[:2] == ("True", "Serving")

    def test_less_than_the_spec_allows_is_not_run_and_that_pack_is_named(self) -> None:
        decision = look(self.settled(minReplicasPerPack=2), self.on(8, 2, 0), self.on(1))
        assert decision.plans == ()
        for kind in ("PackingFeasible", "Ready"):
            status, reason, message = condition(decision, kind)
            assert (status, reason) == ("False", "DoesNotFit")
            assert message.startswith("on the GPU of chat-pack-1 1 replicas fit, 2 are wanted")

    def test_a_fixed_count_is_all_or_nothing(self) -> None:
        decision = told(self.on(8, NEW, 0), self.on(NEW - 1))
        assert decision.plans == ()
        assert condition(decision, "PackingFeasible")[:2] == ("False", "DoesNotFit")


def exploring(decision: Decision) -> Pack:
    """The pack that explores, once it runs what it was told, so that nobody waits for it."""
    ((_, told),) = decision.plans
    return pack(pack_state(told))


class TestSearchAnew:
    """Packs that do not explore, while nothing is chosen."""

    def plans(self, beside: Pack, **spec: Any) -> list[tuple[int, int]]:
        """Replicas and rotation that a pack beside the exploring one is told, if anything."""
        bounds = {"minReplicasPerPack": 1, "maxReplicasPerPack": 4}
        wanted = service({"packs": 2, "autoscaling": bounds} | spec)
        first = look(wanted, pack(pack_state()))
        decision = look(wanted, exploring(first), beside, memory=first.memory)
        return [(p.layout.replicas, p.rotation) for pack, p in decision.plans if pack is beside]

    def test_a_changed_load_of_the_calibration_leaves_them_as_they_serve(self) -> None:
        world = World(service())
        status = world.run(60).status
        load = {"promptTokens": 999, "outputTokens": 99}
        changed = service(
            {"packs": 2, "autoscaling": {"maxReplicasPerPack": 4, "calibration": load}}, status
        )
        beside = runs(2, 1)
        decision = look(changed, pack(world.state()), beside, memory=world.memory)
        assert decision.status.frontier == (), "a search begins"
        later = look(changed, exploring(decision), beside, memory=decision.memory)
        assert later.plans == ()
        silent = pack(None, silence=Trouble("AgentUnreachable", "no answer"))
        changed = changed.model_copy(update={"status": decision.status})
        later = look(changed, silent, beside, memory=decision.memory)
        assert later.plans == (), "nor does a lost poll of the one that explores"

    def test_a_load_of_the_operators_own_ends_and_all_replicas_serve(self) -> None:
        explored = plan(Probe(3, 1, 256), Load(prompt_tokens=9, output_tokens=9), None)
        assert self.plans(pack(pack_state(explored), 1)) == [(3, 3)]

    @pytest.mark.parametrize("load", ["OnStart", "Live"])
    def test_a_layout_that_the_spec_allows_is_kept(self, load: str) -> None:
        bounds = {"maxReplicasPerPack": 4, "calibration": {"when": load}}
        assert self.plans(runs(4, 1), autoscaling=bounds) == []
        assert self.plans(runs(5, 1), autoscaling=bounds) == [(3 if load == "Live" else 1,) * 2]

    def test_one_outside_the_bounds_of_the_spec_is_not(self) -> None:
        narrow = {"minReplicasPerPack": 2, "maxReplicasPerPack": 3}
        assert self.plans(runs(2, 1), autoscaling=narrow) == []
        assert self.plans(runs(3, 1), autoscaling=narrow) == []
        assert self.plans(runs(1, 1), autoscaling=narrow) == [(2, 2)]
        assert self.plans(runs(4, 1), autoscaling=narrow) == [(2, 2)]

    def test_one_of_another_batch_is_not(self) -> None:
        engine = {"kind": "Simulated", "maxNumSeqs": 128}
        assert self.plans(runs(2, 1), engine=engine) == [(1, 1)]
        free = {"kind": "Simulated"}
        assert self.plans(runs(2, 1), engine=free) == []

    def test_one_that_does_not_come_to_serve_is_not(self) -> None:
        problem = Problem(reason="OutOfMemory", message="no memory", since_seconds=1.0)
        failed = pack_state(layout(3), settled=False, problem=problem)
        assert self.plans(pack(failed, 1, ready=False)) == [(1, 1)]
        assert self.plans(pack(failed, 1)) == [], "a part of it serves"
        assert self.plans(runs(3, 1, settled=False, ready=False)) == [], "it may be starting"

    def test_a_service_that_measures_nothing_and_knows_nothing_runs_the_fewest(self) -> None:
        never = {"maxReplicasPerPack": 4, "calibration": {"when": "Never"}}
        assert self.plans(runs(3, 1), autoscaling=never) == [(1, 1)]
