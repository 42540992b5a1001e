"""What ends a probe early, and how long a layout that failed is left alone."""

from __future__ import annotations

from typing import Any

import pytest

from builders import pack, service
from decide_world import World, condition, look
from slm_operator.api.models import SLMService
from slm_operator.api.status import FAILED_LAYOUTS_KEPT
from slm_operator.decide.decision import Decision
from slm_operator.decide.failures import to_status, with_failed
from slm_operator.decide.snapshot import Memory, Unstartable
from slm_operator.pareto.window import WindowRules
from slm_worker.wire import PackState, Problem, ReplicaPhase

LONG = WindowRules(min_seconds=30, max_seconds=60, warmup_seconds=1)


def failing(world: World, reason: str, failures: int = 1) -> PackState:
    """The last replica of what is being measured has failed."""
    state = world.state()
    last = state.replicas[-1].model_copy(
        update={
            "phase": ReplicaPhase.FAILED,
            "failures": failures,
            "problem": Problem(reason=reason, message="so it is", since_seconds=0.0),
        }
    )
    replicas = (*state.replicas[:-1], last)
    return state.model_copy(update={"replicas": replicas, "settled": False})


def layouts(decision: Decision) -> list[tuple[int, int]]:
    found = decision.status.calibration
    assert found is not None
    return [(f.replicas_per_pack, f.max_num_seqs) for f in found.failed_layouts]


@pytest.mark.parametrize(
    ("reason", "failures", "given_up"),
    [
        ("OutOfMemory", 1, True),
        ("KVCacheTooSmall", 1, True),
        ("EngineExited", 1, False),
        ("EngineExited", 3, True),
    ],
)
def test_a_layout_that_cannot_work_is_left_at_once_and_others_after_three_failures(
    reason: str, failures: int, given_up: bool
) -> None:
    world = World(service())
    world.tick()
    decision = look(world.service, pack(failing(world, reason, failures)), memory=world.memory)
    assert layouts(decision) == ([(3, 256)] if given_up else [])
    assert [p.layout.replicas for _, p in decision.plans] == ([2] if given_up else [])


def test_a_fault_of_mps_ends_the_probe_at_once() -> None:
    world = World(service())
    world.run(3)
    state = world.state()
    gpu = state.gpu.model_copy(update={"mps": "Faulted", "mps_message": "a client faulted"})
    faulted = state.model_copy(update={"gpu": gpu})
    decision = look(world.service, pack(faulted), memory=world.memory)
    assert layouts(decision) == [(3, 256)]
    (failed,) = decision.status.calibration.failed_layouts if decision.status.calibration else ()
    assert failed.why == "MPSFaulted: a client faulted"
    assert failed.until == "2026-01-01T00:15:00Z"
    assert decision.events[0].reason == "LayoutFailed"


class Faulting(World):
    """MPS says Faulted for some seconds, as long as a GPU takes to recover."""

    faulted: range = range(0)

    def state(self) -> PackState:
        state = super().state()
        if self.seconds not in self.faulted:
            return state
        gpu = state.gpu.model_copy(update={"mps": "Faulted", "mps_message": "a client faulted"})
        return state.model_copy(update={"gpu": gpu, "settled": False})


@pytest.mark.parametrize("seconds", [1, 2, 6])
def test_a_fault_of_mps_is_held_against_the_layout_that_served_alone(seconds: int) -> None:
    world = Faulting(service())
    world.faulted = range(4, 4 + seconds)
    settled = world.run(90)
    assert layouts(settled) == [(3, 256)]
    assert settled.status.recommended_replicas_per_pack == 2


def test_the_smallest_layout_that_fails_on_and_on_is_told_once() -> None:
    world = World(service())
    world.tick()
    for second in range(120):
        failed = look(world.service, pack(failing(world, "EngineExited", 3)), memory=world.memory)
        world.service = world.service.model_copy(update={"status": failed.status})
        world.memory = failed.memory
        for _, world.plan in failed.plans:
            assert second < 3, "it stays at the smallest"
    assert layouts(failed) == [(3, 256), (2, 256), (1, 256)]


def test_a_failure_outlives_the_operator_and_expires_while_the_search_is_open() -> None:
    world = World(service())
    world.tick()
    failed = look(world.service, pack(failing(world, "OutOfMemory")), memory=world.memory)
    told = world.service.model_copy(update={"status": failed.status})
    restarted = look(told, pack(world.state()), memory=Memory())
    assert layouts(restarted) == [(3, 256)]

    def later(now: str) -> Decision:
        return look(told, pack(world.state()), memory=Memory(), now=now)

    assert layouts(later("2026-01-01T00:59:00Z")) == [(3, 256)]
    assert layouts(later("2026-01-01T01:01:00Z")) == []


def test_a_settled_search_tries_nothing_again() -> None:
    world = World(service())
    world.tick()
    failed = look(world.service, pack(failing(world, "OutOfMemory")), memory=world.memory)
    world.service = world.service.model_copy(update={"status": failed.status})
    world.memory = failed.memory
    ((_, world.plan),) = failed.plans
    world.settled_since = world.seconds
    settled = world.run(40)
    assert condition(settled, "Calibrated")[:2] == ("True", "KneeFound")
    much_later = look(
        world.service, pack(world.state()), memory=world.memory, now="2026-01-07T00:00:00Z"
    )
    assert layouts(much_later) == [(3, 256)]
    assert condition(much_later, "Calibrated")[:2] == ("True", "KneeFound")


def limited(**autoscaling: Any) -> SLMService:
    return service({"autoscaling": {"maxReplicasPerPack": 4} | autoscaling})


def seconds_for(world: World, windows: int) -> float:
    while len(world.service.status.frontier) < windows:
        world.tick()
    return world.seconds


def test_a_clear_breach_of_a_limit_cuts_the_window_short() -> None:
    """Two replicas draw 443 W, of which 200 are allowed."""
    full = World(service(), rules=LONG)
    cut = World(limited(powerBudgetWatts=200), rules=LONG)
    assert seconds_for(full, 1) >= 30
    assert seconds_for(cut, 1) < 20
    (point,) = cut.service.status.frontier
    assert point.rule == "NearestToLimits"
    slight = World(limited(powerBudgetWatts=430), rules=LONG)
    assert seconds_for(slight, 1) >= 30, "a breach that a short window does not prove"


class CutShort:
    """A search that took too long after its first window; the pack follows each plan since."""

    def __init__(self) -> None:
        self.world = World(service())
        seconds_for(self.world, 1)
        self.look("2026-01-01T05:00:00Z")

    def look(self, now: str, *, silent: bool = False) -> tuple[str, str]:
        """The reason of Calibrated, and what happened in this pass."""
        world = self.world
        seen = pack(None if silent else world.state())
        self.last = look(world.service, seen, memory=world.memory, now=now)
        world.service = world.service.model_copy(update={"status": self.last.status})
        world.memory = self.last.memory
        for _, world.plan in self.last.plans:
            world.settled_since = world.seconds
        happened = [e.reason for e in self.last.events]
        return condition(self.last, "Calibrated")[1], " ".join(happened)


def test_a_search_that_takes_too_long_settles_for_what_is_known() -> None:
    search = CutShort()
    assert condition(search.last, "Calibrated")[:2] == ("True", "KneeFound")
    assert "cut short" in condition(search.last, "Calibrated")[2]


def test_it_stays_settled_while_nothing_changes() -> None:
    search = CutShort()
    assert search.look("2026-01-01T05:00:15Z") == ("KneeFound", "")
    search.look("2026-01-01T05:00:30Z", silent=True)
    assert search.look("2026-01-01T05:00:45Z") == ("KneeFound", "")
    search.world.memory = Memory()
    assert search.look("2026-01-02T05:00:00Z") == ("KneeFound", ""), "an operator that starts anew"


def test_it_begins_again_when_the_spec_allows_other_layouts() -> None:
    search = CutShort()
    search.look("2026-01-01T05:00:15Z")
    wider = service({"autoscaling": {"maxReplicasPerPack": 5}}, generation=2)
    search.world.service = wider.model_copy(update={"status": search.world.service.status})
    reason, happened = search.look("2026-01-01T05:00:30Z")
    assert (reason, happened) == ("Searching", "SearchReopened")
    assert search.look("2026-01-01T06:00:00Z")[0] == "Searching", "it has its four hours again"


def test_it_begins_again_once_what_was_measured_is_out_of_date() -> None:
    search = CutShort()
    assert search.look("2026-01-07T23:00:00Z") == ("KneeFound", "")
    assert search.look("2026-01-08T01:00:00Z")[1] == "SearchReopened"


def test_of_very_many_failures_the_status_holds_the_newest() -> None:
    def failed(layouts: range) -> tuple[Unstartable, ...]:
        return tuple(Unstartable(n, 256, "OutOfMemory: so it is", "") for n in layouts)

    kept = with_failed(failed(range(1, 61)), failed(range(50, 71)))
    assert [u.replicas for u in kept] == list(range(7, 71))
    assert len(to_status(kept)) == FAILED_LAYOUTS_KEPT
