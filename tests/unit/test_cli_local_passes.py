"""Passes over a pack without a cluster: to the knee, or to what only the user can mend."""

from __future__ import annotations

from typing import Any

import pytest

from builders import H100_OPT_1_3B, pack_state
from slm_operator.cli.local.passes import (
    BRING_UP_SECONDS,
    SILENT_SECONDS,
    STUCK_SECONDS,
    Local,
    Patience,
    hopeless,
    one_pass,
    window_rules,
)
from slm_operator.cli.local.request import Request, manifest, service
from slm_operator.decide.snapshot import Trouble
from slm_operator.pareto.window import WindowRules
from slm_worker.wire import (
    Counters,
    Layout,
    PackState,
    Plan,
    Problem,
    ReplicaPhase,
    ReplicaState,
)

RULES = WindowRules(min_seconds=5, max_seconds=10, warmup_seconds=1)
SILENT = Trouble("AgentUnreachable", "the agent does not answer: see the pack's log")
NOW = "2026-01-01T00:00:00Z"
PLAN = Plan(generation=1, layout=Layout(replicas=2, max_num_seqs=256), rotation=1)


def fresh(**options: Any) -> Local:
    wanted = Request("hf://facebook/opt-1.3b", "Simulated", max_replicas=4, **options)
    return Local(service(manifest(wanted)))


class FakePack:
    """Follows plans at once, and counts as the published curve says."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.seconds = self.tokens = self.millijoules = self.saturated = self.settled = 0.0

    def second(self) -> PackState:
        self.seconds += 1
        if self.plan is not None and self.plan.load is not None:
            rate, watts = H100_OPT_1_3B[self.plan.rotation, self.plan.layout.max_num_seqs]
            self.tokens += rate
            self.millijoules += watts * 1000
            self.saturated += 1
        return pack_state(
            self.plan,
            clock_seconds=self.seconds,
            settled_since_seconds=self.settled,
            counters=Counters(
                sampled_at_seconds=self.seconds,
                output_tokens=int(self.tokens),
                energy_millijoules=int(self.millijoules),
                saturated_seconds=self.saturated,
            ),
        )

    def follow(self, plan: Plan) -> None:
        self.plan, self.settled = plan, self.seconds


def play(local: Local, pack: FakePack, seconds: int, silent_at: int | None = None) -> Local:
    for second in range(seconds):
        state = pack.second()
        answer: PackState | Trouble = SILENT if second == silent_at else state
        local, decision = one_pass(local, answer, RULES, f"2026-01-01T00:00:{second % 60:02d}Z")
        for _, plan in decision.plans:
            pack.follow(plan)
    return local


def measured(local: Local) -> list[tuple[int, int, int]]:
    points = local.status.frontier
    return [(p.layout_replicas, p.replicas_per_pack, p.output_tokens_per_second) for p in points]


def test_it_walks_to_the_published_knee_and_ends_with_the_load_off() -> None:
    pack = FakePack()
    local = play(fresh(), pack, 90)
    assert local.found
    assert local.serves_it
    point = local.status.operating_point
    assert point is not None
    assert (point.replicas_per_pack, point.max_num_seqs) == (2, 256)
    assert pack.plan is not None
    assert (pack.plan.layout.replicas, pack.plan.rotation, pack.plan.load) == (2, 2, None)


def test_a_poll_that_is_lost_loses_no_point() -> None:
    disturbed = play(fresh(), FakePack(), 90, silent_at=12)
    assert disturbed.found
    assert measured(disturbed) == measured(play(fresh(), FakePack(), 90))


def test_nothing_is_found_before_anything_is_measured() -> None:
    local = play(fresh(), FakePack(), 3)
    assert not local.found
    assert local.status.calibration is not None
    assert local.status.calibration.phase == "Searching"


def problem(reason: str, since_seconds: float = 0.0) -> Problem:
    return Problem(reason=reason, message="do this", since_seconds=since_seconds)


def failing(reason: str, failures: int) -> PackState:
    replica = ReplicaState(
        index=0,
        phase=ReplicaPhase.FAILED,
        in_rotation=False,
        max_num_seqs=256,
        kv_cache_bytes=None,
        pid=None,
        starts=failures,
        failures=failures,
        problem=problem(reason),
    )
    return pack_state(PLAN, replicas=(replica,), settled=False, problem=problem(reason))


def seen(state: PackState) -> Local:
    return one_pass(fresh(), state, RULES, NOW)[0]


def test_a_model_that_does_not_fit_is_hopeless_at_once() -> None:
    state = pack_state(max_replicas=0)
    trouble = hopeless(seen(state), state)
    assert trouble is not None
    assert trouble.reason == "DoesNotFit"
    assert "0 replicas fit, 1 are wanted" in trouble.message


@pytest.mark.parametrize(
    ("lasted_seconds", "given_up"), [(BRING_UP_SECONDS - 1, False), (BRING_UP_SECONDS, True)]
)
def test_what_is_missing_at_the_bring_up_is_waited_for_a_moment(
    lasted_seconds: float, given_up: bool
) -> None:
    state = pack_state(
        packing=None,
        problem=problem("DeviceUnavailable", since_seconds=100.0),
        clock_seconds=100.0 + lasted_seconds,
    )
    assert (hopeless(seen(state), state) is not None) is given_up


@pytest.mark.parametrize(
    ("reason", "failures", "given_up"),
    [
        ("EngineArgumentInvalid", 1, False),
        ("EngineArgumentInvalid", 2, True),
        ("EngineExited", 2, True),
        ("OutOfMemory", 5, False),
    ],
)
def test_an_engine_that_fails_twice_is_given_up_unless_fewer_replicas_may_help(
    reason: str, failures: int, given_up: bool
) -> None:
    state = failing(reason, failures)
    trouble = hopeless(seen(state), state)
    assert (trouble is not None) is given_up
    if trouble is not None:
        assert (trouble.reason, trouble.message) == (reason, "do this")


def test_an_engine_that_has_no_room_even_alone_is_hopeless() -> None:
    local = fresh()
    pack = FakePack()
    for _ in range(60):
        plan = pack.plan or PLAN
        state = failing("OutOfMemory", 3).model_copy(update={"plan": plan})
        local, decision = one_pass(local, state, RULES, NOW)
        trouble = hopeless(local, state)
        if trouble is not None:
            break
        for _, new in decision.plans:
            pack.follow(new)
    assert trouble is not None
    assert trouble.message == "OutOfMemory: do this"
    assert pack.plan is not None
    assert pack.plan.layout.replicas == 1


def test_a_failure_after_something_was_measured_is_left_to_the_search() -> None:
    pack = FakePack()
    local = play(fresh(), pack, 90)
    assert hopeless(local, failing("EngineExited", 3)) is None


def test_a_pack_that_falls_silent_or_stays_in_trouble_is_given_up_after_its_time() -> None:
    steady = play(fresh(), FakePack(), 90)
    assert Patience().after(steady, 0.0) == Patience()
    silent, _ = one_pass(steady, SILENT, RULES, NOW)
    patience = Patience().after(silent, 10.0).after(silent, 20.0)
    assert patience == Patience(since_seconds=10.0)
    assert not patience.over(SILENT, 10.0 + SILENT_SECONDS)
    assert patience.over(SILENT, 11.0 + SILENT_SECONDS)
    assert not patience.over(pack_state(), 10.0 + STUCK_SECONDS)
    assert patience.over(pack_state(), 11.0 + STUCK_SECONDS)
    assert patience.after(steady, 30.0) == Patience()


def test_a_pack_that_starts_is_in_no_trouble() -> None:
    starting = seen(pack_state(packing=None))
    assert Patience().after(starting, 5.0) == Patience()


def test_shorter_windows_warm_up_shorter_too_and_are_coarser() -> None:
    own = WindowRules()
    assert window_rules(None) == own
    short = window_rules(4.0)
    assert (short.min_seconds, short.warmup_seconds) == (4.0, 4.0)
    assert short.interval_width > own.interval_width
    assert window_rules(20.0).warmup_seconds == own.warmup_seconds
