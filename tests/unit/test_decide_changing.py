"""What is said of a pack that does not come to serve in a changed layout."""

from __future__ import annotations

from typing import Any

import pytest

from builders import pack, pack_state, service
from decide_world import RULES, condition
from rollout_world import CHANGED, FIXED, World, progressing, settled
from slm_operator.decide.calibrate import plan
from slm_operator.decide.decision import Decision, decide
from slm_operator.decide.snapshot import Memory, Pack, Snapshot, Trouble
from slm_operator.pareto.points import Probe
from slm_worker.wire import Problem, ReplicaPhase

OLD, NEW = 2, 3
DEADLINE_SECONDS = 600.0
NO_MEMORY = Problem(reason="OutOfMemory", message="no memory", since_seconds=1.0)


def runs(replicas: int, phase: ReplicaPhase = ReplicaPhase.READY, **changes: Any) -> Pack:
    state = pack_state(plan(Probe(replicas, replicas, 256), None, None), **changes)
    as_told = tuple(r.model_copy(update={"phase": phase}) for r in state.replicas)
    state = state.model_copy(
        update={"replicas": as_told, "settled": phase is ReplicaPhase.READY and not changes}
    )
    return pack(state, ready=state.settled)


class Alone:
    """A service with one pack, of which another layout is wanted."""

    def __init__(self) -> None:
        self.service = service({"replicasPerPack": NEW, "autoscaling": None})
        self.memory = Memory()
        self.look(runs(NEW), 0)

    def look(self, seen: Pack, seconds: float) -> Decision:
        now = "2026-01-01T00:00:00Z"
        snapshot = Snapshot(self.service, now, (seen,), self.memory, seconds=seconds)
        decision = decide(snapshot, RULES, "t")
        self.service = self.service.model_copy(update={"status": decision.status})
        self.memory = decision.memory
        return decision

    def told(self) -> None:
        """It left its layout at second 10."""
        decision = self.look(runs(OLD), 10)
        assert [p.layout.replicas for _, p in decision.plans] == [NEW]

    def says(self, seen: Pack, seconds: float) -> tuple[str, str, str]:
        return condition(self.look(seen, seconds), "Progressing")


def test_a_lone_pack_that_is_in_trouble_is_told_with_cause_and_remedy() -> None:
    alone = Alone()
    alone.told()
    assert alone.says(runs(NEW, ReplicaPhase.STARTING), 11)[1] == "RolloutComplete"
    status, reason, message = alone.says(runs(NEW, problem=NO_MEMORY), 20)
    assert (status, reason) == ("False", "LayoutHeldUp")
    assert message == (
        "chat-pack-0 has to serve in the new one; it does not: OutOfMemory: no memory. "
        "Where that stays, `kubectl delete pod chat-pack-0` makes it anew"
    )
    assert alone.says(runs(NEW), 30)[:2] == ("True", "RolloutComplete")
    assert alone.memory.moving == ()


def test_what_befalls_it_later_is_no_change_of_layout() -> None:
    alone = Alone()
    alone.told()
    alone.look(runs(NEW), 20)
    assert alone.says(runs(NEW, problem=NO_MEMORY), 30)[:2] == ("True", "RolloutComplete")
    anew = pack(None, uid="p9", silence=Trouble("AgentUnreachable", "no answer"))
    assert alone.says(anew, 40)[:2] == ("True", "RolloutComplete")


@pytest.mark.parametrize(
    ("phase", "held_up"), [(ReplicaPhase.DRAINING, True), (ReplicaPhase.STARTING, False)]
)
def test_one_that_is_stuck_without_a_trouble_is_told_after_the_deadline(
    phase: ReplicaPhase, held_up: bool
) -> None:
    alone = Alone()
    alone.told()
    assert alone.says(runs(NEW, phase), 10 + DEADLINE_SECONDS)[1] == "RolloutComplete"
    _, reason, message = alone.says(runs(NEW, phase), 11 + DEADLINE_SECONDS)
    assert reason == ("LayoutHeldUp" if held_up else "RolloutComplete")
    assert ("10m (spec.rollout.progressDeadline)" in message) is held_up


@pytest.mark.parametrize(
    ("rollout", "beside"),
    [
        ({"paused": True}, "spec.rollout.paused is true"),
        ({}, "one pack with the changed template starts"),
    ],
)
def test_it_is_told_beside_a_rollout_that_waits(rollout: dict[str, Any], beside: str) -> None:
    world: World = settled(FIXED, gpus=2)
    world.change(CHANGED | {"replicasPerPack": 1, "rollout": rollout})
    first = progressing(world.second())
    assert first[1] in ("RolloutPaused", "CanaryStarting")
    for server in world.servers.values():
        server.fails = "OutOfMemory" if server.plan and server.plan.layout.replicas == 1 else ""
    status, reason, message = progressing(world.second())
    assert (status, reason) == ("False", "LayoutHeldUp")
    assert "chat-pack-1 keep the layout before until chat-pack-0 serves in the new one" in message
    assert beside in message
