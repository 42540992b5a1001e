"""Which packs may restart their replicas for another layout, while others serve."""

from __future__ import annotations

from typing import Any

import pytest

from builders import pack, pack_state, service
from decide_world import look
from slm_operator.decide.calibrate import plan
from slm_operator.decide.decision import STARTING_POLL_SECONDS, STEADY_POLL_SECONDS, Decision
from slm_operator.decide.snapshot import Pack, Trouble
from slm_operator.pareto.points import Probe
from slm_worker.wire import Layout, Plan

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
    assert [pack.ordinal for pack, _ in look(searched, runs(1, 0), runs(2, 1)).plans] == [0]


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
    decision = look(service({"packs": 2}), runs(1, 0), runs(2, 1))
    condition = decision.status.condition("Progressing")
    assert condition is not None and condition.reason == "RolloutComplete"
