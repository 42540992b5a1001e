"""Measuring under the users' own requests, never at all, and anew when the traffic has changed."""

from __future__ import annotations

import math
from typing import Any

import pytest

from builders import pack, pack_state, service
from live_world import RISING, LiveWorld
from slm_operator.api.models import SLMService
from slm_operator.decide.calibrate import plan
from slm_operator.decide.decision import Decision, decide
from slm_operator.decide.live import MAX_WAIT_SECONDS, RETURN_SECONDS
from slm_operator.decide.snapshot import Memory, Snapshot
from slm_operator.decide.traffic import POINT_LIFETIME
from slm_operator.pareto.points import Probe
from slm_operator.pareto.window import WindowRules

CAPACITY = {replicas: tokens / 292 for replicas, (tokens, _) in RISING.items()}
"""Requests a second that so many replicas serve."""
FILLS_TWO = CAPACITY[2] * 1.09
"""Some 560 requests in flight: two replicas hold 512. The search begins with two of three."""
ALL = Probe(3, 3, 256)
TWO = Probe(3, 2, 256)
HOUR = 3600


def live(**autoscaling: Any) -> SLMService:
    settings = {"maxReplicasPerPack": 4, "calibration": {"when": "Live"}} | autoscaling
    return service({"autoscaling": settings})


def users(wanted: SLMService, rate: float = 0.0) -> LiveWorld:
    return LiveWorld(wanted, rate, curve=RISING)


def said(decision: Decision) -> tuple[str, str]:
    condition = decision.status.condition("Calibrated")
    assert condition is not None
    return condition.status, condition.reason


def phase(decision: Decision) -> str:
    assert decision.status.calibration is not None
    return decision.status.calibration.phase


def measured(decision: Decision) -> dict[tuple[int, int], int]:
    """Output tokens/s by replicas in rotation and started."""
    return {
        (p.replicas_per_pack, p.layout_replicas): p.output_tokens_per_second
        for p in decision.status.frontier
    }


def probing(world: LiveWorld, replicas: int) -> None:
    """Until so many are in rotation."""
    for _ in range(600):
        world.run(1)
        if world.rotation == replicas:
            return
    raise AssertionError(f"{replicas} in rotation were never tried: {world.ran}")


def until(world: LiveWorld, event: str) -> Decision:
    """Until it is told, within a quarter of an hour."""
    for _ in range(900):
        decision = world.run(1)
        if event in world.events:
            return decision
    raise AssertionError(f"{event} was never told: {world.events}")


class TestLive:
    def test_days_that_fill_the_replicas_find_the_knee(self) -> None:
        """The load swings over four hours between little and a little more than all can serve."""
        world, alike = users(live()), users(service({"replicasPerPack": 3, "autoscaling": None}))
        for minute in range(36 * 60):
            swing = (1 - math.cos(2 * math.pi * minute / 240)) / 2
            world.rate = alike.rate = CAPACITY[4] * (0.2 + 0.83 * swing)
            alike.run(60)
            decision = world.run(60)
            if said(decision) == ("True", "KneeFound"):
                break
        assert said(decision) == ("True", "KneeFound")
        assert decision.status.recommended_replicas_per_pack == 3
        points = measured(decision)
        for (replicas, layout), tokens in points.items():
            assert tokens == pytest.approx(RISING[replicas][0], rel=0.02), (replicas, layout)
        assert {(2, 3), (3, 3)} <= points.keys()
        assert not world.own_load, "users' requests are all that was sent"
        assert world.longest_wait < alike.longest_wait + MAX_WAIT_SECONDS

    def test_a_service_without_enough_load_learns_nothing_and_serves_with_all(self) -> None:
        world = users(live(), rate=CAPACITY[2] * 0.9)
        decision = world.run(HOUR)
        assert decision.status.frontier == ()
        assert decision.status.recommended_replicas_per_pack is None
        assert (phase(decision), *said(decision)) == ("Waiting", "False", "WaitingForLoad")
        assert world.ran == [ALL]
        assert world.longest_wait == 0
        assert decision.poll_seconds == 15, "nothing is to be looked at each second"
        ready = decision.status.condition("Ready")
        assert ready is not None
        assert (ready.status, ready.reason) == ("True", "Serving")

    def test_waiting_is_no_write_after_another(self) -> None:
        world = users(live(), rate=10)
        before = world.run(900).status
        assert world.run(900).status == before

    def test_a_probe_that_lets_users_wait_is_left_at_once_and_remembered(self) -> None:
        world = users(live(), rate=CAPACITY[2] * 1.25)
        decision = world.run(600)
        assert world.ran[:3] == [ALL, TWO, ALL]
        assert TWO not in world.ran[3:]
        assert world.longest_wait < MAX_WAIT_SECONDS + 2
        assert decision.status.frontier == ()
        (entry,) = decision.status.history
        assert (entry.reason, entry.rule) == ("ProbeAbandoned", "UsersWaited")
        assert "more than 10 s, with 2 replicas x 256 (of 3 started): all 3" in entry.message
        assert decision.status.calibration is not None
        assert decision.status.calibration.too_few_replicas == 2
        tried = len(world.ran)
        world.memory = Memory()
        decision = world.run(600)
        assert TWO not in world.ran[tried:], "an operator that restarts knows it too"

    def test_a_promised_time_to_the_first_token_is_kept_while_probing(self) -> None:
        world = users(live(slo={"ttftP95": "2s"}), rate=FILLS_TWO)
        decision = world.run(600)
        assert "ProbeAbandoned" in world.events
        assert world.longest_wait < 2 + 1
        assert "more than 2 s" in decision.status.history[0].message

    def test_a_load_that_would_make_users_wait_at_once_is_not_probed_with_so_few(self) -> None:
        world = users(live(slo={"ttftP95": "5s"}))
        world.run(2)
        world.in_flight, world.rate = 750, CAPACITY[3] * 0.99
        world.run(900)
        assert world.ran == [ALL]
        assert world.longest_wait == 0

    def test_a_load_that_ends_in_mid_window_leaves_no_point(self) -> None:
        world = users(live(), rate=FILLS_TWO)
        probing(world, 2)
        world.run(20)
        world.rate = 5
        decision = world.run(60)
        assert decision.status.frontier == ()
        assert phase(decision) == "Waiting"
        assert world.rotation == 3

    def test_waves_do_not_turn_the_rotation_each_time(self) -> None:
        world = users(live(), rate=10)
        for _ in range(40):
            world.rate = CAPACITY[2] * 1.1
            world.run(30)
            world.rate = 10
            world.run(30)
        assert len(world.ran) <= 2 * (40 * 60 / RETURN_SECONDS) / 2 + 2
        assert world.longest_wait < MAX_WAIT_SECONDS + 2

    def test_a_load_that_is_too_much_for_all_says_nothing_of_the_fewer(self) -> None:
        world = users(live(), rate=10)
        world.run(60)
        world.rate = 1.5 * CAPACITY[4]
        decision = world.run(300)
        assert decision.status.calibration is not None
        assert decision.status.calibration.too_few_replicas is None
        tried = len(world.ran)
        world.run(1200)
        assert world.rotation == 3
        assert len(world.ran) == tried, "while requests queue before all, fewer are not tried"

    def test_what_heat_held_down_is_no_point(self) -> None:
        world = users(live(), rate=FILLS_TWO)
        world.hot = True
        decision = world.run(150)
        assert decision.status.frontier == ()
        assert said(decision) == ("False", "Throttled")

    def test_an_operator_restarted_in_mid_probe_goes_on(self) -> None:
        world = users(live(), rate=FILLS_TWO)
        probing(world, 2)
        world.run(10)
        world.memory = Memory()
        decision = world.run(90)
        assert (2, 3) in measured(decision)
        assert world.ran[:2] == [ALL, TWO]

    def test_a_point_has_the_lengths_of_the_requests_that_were_served(self) -> None:
        world = users(live(), rate=FILLS_TWO)
        decision = world.run(300)
        (point,) = decision.status.frontier
        assert point.workload is not None
        assert point.workload.prompt_tokens == pytest.approx(111, abs=1)
        assert point.workload.output_tokens == pytest.approx(292, abs=1)

    def test_packs_that_do_not_explore_serve_with_all_meanwhile(self) -> None:
        two = service(
            {"packs": 2, "autoscaling": {"maxReplicasPerPack": 4, "calibration": {"when": "Live"}}}
        )
        packs = (pack(pack_state()), pack(pack_state(), 1))
        decision = decide(
            Snapshot(two, "2026-01-01T00:00:00Z", packs, Memory()), WindowRules(), "t"
        )
        assert [(p.layout.replicas, p.rotation, p.load) for _, p in decision.plans] == [
            (3, 3, None),
            (3, 3, None),
        ]


class TestNever:
    def test_nothing_is_measured_and_the_fewest_run(self) -> None:
        never = live(calibration={"when": "Never"}, minReplicasPerPack=2)
        world = LiveWorld(never, rate=CAPACITY[2] * 1.1)
        decision = world.run(1200)
        assert world.ran == [Probe(2, 2, 256)]
        assert decision.status.frontier == ()
        assert (phase(decision), *said(decision)) == ("Off", "False", "NothingMeasured")

    def test_what_was_measured_before_decides_however_old_it_is(self) -> None:
        world = LiveWorld(service())
        world.run(600)
        assert world.plan is not None and world.plan.layout.replicas == 2
        held = world.service.status
        world.service = service(
            {"autoscaling": {"maxReplicasPerPack": 4, "calibration": {"when": "Never"}}}, held
        )
        world.seconds += int(2 * POINT_LIFETIME.total_seconds())
        decision = world.run(60)
        assert said(decision) == ("True", "KneeFound")
        assert world.plan.layout.replicas == 2
        assert measured(decision) == {
            (p.replicas_per_pack, p.layout_replicas): p.output_tokens_per_second
            for p in held.frontier
        }

    def test_a_fixed_count_is_fixed(self) -> None:
        fixed = service({"replicasPerPack": 3, "autoscaling": None})
        decision = LiveWorld(fixed).run(60)
        assert said(decision) == ("True", "FixedReplicas")


class TestShift:
    """The operator's own load measures; the users' requests say what it has to be like."""

    def settled(self) -> LiveWorld:
        load = {"promptTokens": 111, "outputTokens": 292}
        wanted = service({"autoscaling": {"maxReplicasPerPack": 4, "calibration": load}})
        world = LiveWorld(wanted)
        assert said(world.run(600)) == ("True", "KneeFound")
        world.rate = 10
        return world

    def test_requests_as_expected_change_nothing(self) -> None:
        world = self.settled()
        before = len(world.ran)
        world.run(HOUR)
        assert len(world.ran) == before
        assert world.events.count("KneeFound") == 1

    def test_ten_minutes_of_longer_answers_reopen_the_search_with_such_a_load(self) -> None:
        world = self.settled()
        old = measured(world.look())
        world.output_tokens = 500
        world.run(540)
        assert "LengthsShifted" not in world.events
        decision = until(world, "LengthsShifted")
        assert world.plan is not None and world.plan.load is not None
        assert world.plan.load.output_tokens == pytest.approx(500, abs=5)
        assert world.plan.load.prompt_tokens == pytest.approx(111, abs=2)
        assert phase(decision) == "Searching"
        told = next(e for e in decision.status.history if e.reason == "LengthsShifted")
        assert told.rule == "TrafficShifted"
        assert "answers have 500 tokens on average, 1.7 times more than the 292" in told.message
        assert told.message.endswith("2 replicas x 256 (of 3 started) is measured next")
        assert {p.rule for p in decision.status.frontier} == {"OtherTraffic"}
        assert decision.status.calibration is not None
        assert decision.status.calibration.chosen is not None, "what was chosen is not forgotten"

        decision = world.run(900)
        assert said(decision) == ("True", "KneeFound")
        assert len(decision.status.frontier) == 2 * len(old), "points of both lengths are kept"

    def test_former_lengths_take_up_the_former_points(self) -> None:
        world = self.settled()
        world.output_tokens = 500
        world.run(HOUR / 2)
        before = len(world.ran)
        world.output_tokens = 280
        decision = world.run(HOUR / 2)
        assert world.events.count("LengthsShifted") == 2
        assert len(world.ran) == before, "nothing is measured anew"
        assert said(decision) == ("True", "KneeFound")
        told = next(e for e in reversed(decision.status.history) if e.reason == "LengthsShifted")
        assert told.message.endswith("what was measured for it counts again")

    def test_a_lowered_power_limit_reopens_it_and_the_old_points_are_out(self) -> None:
        world = self.settled()
        world.capping = True
        decision = until(world, "PowerLimitShifted")
        assert {p.rule for p in decision.status.frontier} == {"Outdated"}
        assert phase(decision) == "Searching"

    def test_points_expire_after_a_week_and_are_measured_anew(self) -> None:
        world = self.settled()
        world.rate = 0
        before = len(world.ran)
        world.seconds += int(POINT_LIFETIME.total_seconds()) - HOUR
        world.run(60)
        assert len(world.ran) == before
        world.seconds += HOUR
        decision = world.run(15)
        assert phase(decision) == "Searching"
        assert {p.rule for p in decision.status.frontier} == {"Outdated"}
        assert said(world.run(900)) == ("True", "KneeFound")

    def test_packs_that_do_not_explore_keep_what_was_chosen(self) -> None:
        world = self.settled()
        world.seconds += int(POINT_LIFETIME.total_seconds())
        two = world.service.model_copy(
            update={"spec": world.service.spec.model_copy(update={"packs": 2})}
        )
        packs = (pack(world.state()), pack(pack_state(), 1))
        decision = decide(
            Snapshot(two, "2026-02-01T00:00:00Z", packs, world.memory), WindowRules(), "t"
        )
        assert [(p.layout.replicas, p.rotation) for _, p in decision.plans] == [(3, 2), (2, 2)]


def test_a_live_service_ends_a_load_of_the_operators_own() -> None:
    """As after a change of calibration.when in mid-search."""
    own = plan(Probe(4, 1, 256), None, None)
    loaded = replace_load(own)
    decision = decide(
        Snapshot(live(), "2026-01-01T00:00:00Z", (pack(pack_state(loaded)),), Memory()),
        WindowRules(),
        "t",
    )
    assert [(p.rotation, p.load) for _, p in decision.plans] == [(3, None)]


def replace_load(of: Any) -> Any:
    return of.model_copy(update={"load": {"prompt_tokens": 1, "output_tokens": 1}})
