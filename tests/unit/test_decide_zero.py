"""A service without requests goes to zero packs, and one that waits brings it back as it was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builders import pack_state, service
from demand_fleet import NOW, RULES, Fleet, following, message, scaling
from slm_operator.api.models import SLMService
from slm_operator.decide.decision import Decision, decide
from slm_operator.decide.demand import SAMPLE_SECONDS
from slm_operator.decide.snapshot import Activation, Memory, Snapshot, Trouble
from slm_worker.wire import Layout

LOOKS = 300 / SAMPLE_SECONDS
"""Of the whole stabilisation period."""
HOLDS = Activation(port=20000, address="10.0.0.9")
UNREACHABLE = Trouble("ActivatorUnreachable", "the activator does not answer")


def sleepy(activation: Activation | None = HOLDS, **changes: Any) -> Fleet:
    fleet = Fleet(following(least=0, **changes), start_looks=2)
    fleet.activation = activation
    return fleet


def asleep(**changes: Any) -> Fleet:
    fleet = sleepy(**changes)
    fleet.run(4, load=0.3)
    fleet.run(int(LOOKS) + 4)
    assert fleet.ordinals == []
    return fleet


def condition(decision: Decision, kind: str) -> tuple[str, str]:
    found = decision.status.condition(kind)
    assert found is not None
    return found.status, found.reason


class TestToZero:
    def test_without_requests_for_the_whole_period_and_not_sooner(self) -> None:
        fleet = sleepy()
        fleet.run(4, load=0.3)
        fleet.run(int(LOOKS) - 1)
        assert fleet.ordinals == [0]
        decision = fleet.run(3)
        assert (fleet.ordinals, decision.status.desired_packs) == ([], 0)
        entry = decision.status.history[-1]
        assert (entry.from_, entry.to, entry.rule) == ("1 pack", "0 packs", "NoRequests")
        assert "no request came for 5m" in entry.message

    def test_from_several_packs_too(self) -> None:
        fleet = sleepy(stabilization="90s")
        fleet.ramp(1.6)
        assert fleet.ordinals == [0, 1]
        fleet.run(20)
        assert fleet.ordinals == []

    def test_never_with_a_request_now_and_then(self) -> None:
        fleet = sleepy()
        for _ in range(6):
            fleet.run(int(LOOKS) - 3)
            fleet.run(1, load=0.01)
        assert fleet.ordinals == [0]

    def test_never_while_an_answer_takes_longer_than_the_period(self) -> None:
        fleet = sleepy(stabilization="30s")
        fleet.packs[0].waiting = 1.0
        for _ in range(20):
            fleet.packs[0].waiting, fleet.packs[0].ended = 1.5, 0.0
            fleet.decide()
            fleet.looks += 1
        assert fleet.ordinals == [0]

    def test_never_while_one_is_at_the_activator(self) -> None:
        fleet = sleepy(stabilization="30s", activation=replace(HOLDS, held=1))
        fleet.run(20)
        assert fleet.ordinals == [0]

    def test_never_while_a_pack_that_serves_does_not_answer(self) -> None:
        fleet = sleepy()
        fleet.packs[0].silent = True
        assert fleet.run(2 * int(LOOKS)).status.desired_packs == 1

    def test_not_within_the_period_after_an_agent_crashed_with_the_requests_it_had(self) -> None:
        fleet = sleepy()
        fleet.run(4, load=0.3)
        fleet.run(8)
        crashing = fleet.packs[0]
        crashing.silent = True
        fleet.run(8, load=0.3)
        crashing.silent, crashing.agent = False, crashing.agent + 1
        crashing.ended = crashing.waiting = 0.0
        fleet.run(int(LOOKS) - 1)
        assert fleet.ordinals == [0]
        fleet.run(3)
        assert fleet.ordinals == []

    def test_not_within_the_period_after_a_container_crashed_beside_another_pack(self) -> None:
        fleet = sleepy()
        fleet.ramp(1.6)
        fleet.run(8)
        assert fleet.ordinals == [0, 1]
        crashing = fleet.packs[0]
        crashing.starts_in, crashing.agent = 8, crashing.agent + 1
        crashing.ended = crashing.waiting = 0.0
        fleet.run(8)
        fleet.run(int(LOOKS) - 1)
        assert fleet.ordinals == [0]
        fleet.run(3)
        assert fleet.ordinals == []

    def test_never_before_the_knee_is_known(self) -> None:
        fleet = Fleet(following(least=0, measured=False))
        fleet.activation = HOLDS
        assert fleet.run(2 * int(LOOKS)).status.desired_packs == 1

    def test_a_service_that_measures_nothing_of_its_own_need_not_be_measured(self) -> None:
        changes = {"minPacks": 0, "maxPacks": 2, "calibration": {"when": "Live"}}
        fleet = Fleet(service({"autoscaling": changes}))
        fleet.activation = HOLDS
        assert fleet.run(2 * int(LOOKS)).status.desired_packs == 0

    def test_the_period_begins_when_a_pack_is_ready_however_long_it_took(self) -> None:
        changes = {"minPacks": 0, "maxPacks": 2, "calibration": {"when": "Live"}}
        fleet = Fleet(service({"autoscaling": changes}))
        fleet.activation = HOLDS
        fleet.packs[0].starts_in = 2 * int(LOOKS)
        fleet.run(3 * int(LOOKS) - 1)
        assert fleet.ordinals == [0]
        fleet.run(3)
        assert fleet.ordinals == []

    def test_not_where_one_pack_is_the_least(self) -> None:
        fleet = Fleet(following(least=1))
        fleet.activation = HOLDS
        fleet.run(2 * int(LOOKS))
        assert fleet.ordinals == [0]

    @pytest.mark.parametrize(
        ("activation", "reason"),
        [
            (None, "ActivatorMissing"),
            (replace(HOLDS, trouble=UNREACHABLE), "ActivatorUnreachable"),
        ],
    )
    def test_nobody_who_holds_requests_leaves_a_pack_and_says_why(
        self, activation: Activation | None, reason: str
    ) -> None:
        fleet = sleepy(activation=activation)
        decision = fleet.run(2 * int(LOOKS))
        assert fleet.ordinals == [0]
        assert scaling(decision) == ("False", reason)
        assert message(decision).endswith("1 pack stays")


class TestAtZero:
    def test_it_says_so_and_stays_ready(self) -> None:
        decision = asleep().look()
        assert condition(decision, "Ready") == ("True", "ScaledToZero")
        assert scaling(decision) == ("True", "ScaledToZero")
        assert condition(decision, "GPUAllocated") == ("Unknown", "ScaledToZero")
        assert condition(decision, "Calibrated") == ("True", "KneeFound")
        assert decision.through_activator

    def test_what_was_measured_stays(self) -> None:
        fleet = sleepy()
        before = fleet.run(4, load=0.3).status
        after = fleet.run(2 * int(LOOKS)).status
        assert after.desired_packs == 0
        assert after.frontier == before.frontier
        assert after.operating_point == before.operating_point
        assert after.calibration == before.calibration

    def test_it_is_no_write_and_no_reason_to_look_often(self) -> None:
        fleet = asleep()
        before = fleet.writes
        decision = fleet.run(40)
        assert fleet.writes == before
        assert decision.poll_seconds == SAMPLE_SECONDS

    def test_a_moment_of_the_activators_silence_starts_no_pack(self) -> None:
        fleet = asleep()
        fleet.activation = replace(HOLDS, trouble=UNREACHABLE)
        assert fleet.run(3).status.desired_packs == 0

    def test_a_silence_that_lasts_does(self) -> None:
        fleet = asleep()
        fleet.activation = replace(HOLDS, trouble=UNREACHABLE, lastingly=False)
        decision = fleet.look()
        assert fleet.ordinals == [0]
        assert decision.status.history[-1].rule == "CannotHold"
        assert not decision.through_activator

    def test_an_operator_that_restarts_leaves_it_there(self) -> None:
        fleet = asleep()
        fleet.memory = Memory()
        assert fleet.run(10).status.desired_packs == 0

    def test_a_least_of_one_brings_a_pack_back(self) -> None:
        fleet = asleep()
        fleet.service = following(least=1).model_copy(update={"status": fleet.service.status})
        fleet.activation = None
        assert fleet.look().status.history[-1].rule == "PackBounds"
        assert fleet.ordinals == [0]


class TestBack:
    def test_a_request_that_waits_starts_a_pack_in_the_same_pass(self) -> None:
        fleet = asleep()
        fleet.activation = replace(HOLDS, held=3)
        decision = fleet.decide()
        assert decision.pods.create == (0,)
        assert condition(decision, "Ready") == ("False", "Starting")
        entry = decision.status.history[-1]
        assert (entry.rule, entry.from_, entry.to) == ("RequestsHeld", "0 packs", "1 pack")
        assert entry.message == "3 requests wait at the activator"
        assert decision.through_activator, "until a pack is ready"

    def test_the_pack_begins_at_the_knee_that_was_known(self) -> None:
        fleet = asleep()
        fleet.activation = replace(HOLDS, held=1)
        fleet.run(3)
        fleet.packs[0].plan = fleet.packs[0].plan.model_copy(update={"generation": 0})
        decision = fleet.decide()
        assert condition(decision, "Calibrated") == ("True", "KneeFound")
        assert decision.status.calibration is not None
        assert decision.status.calibration.phase == "Done"
        ((_, plan),) = _plans_of_a_new_pack(fleet)
        assert (plan.layout, plan.load) == (Layout(replicas=1, max_num_seqs=256), None)

    def test_clients_are_led_to_the_activator_until_every_node_knows_the_pack(self) -> None:
        fleet = asleep()
        fleet.activation = replace(HOLDS, held=1)
        led = []
        for _ in range(5):
            decision = fleet.look()
            led.append((decision.status.ready_packs, decision.through_activator))
        assert led == [(0, True), (0, True), (1, True), (1, False), (1, False)]

    def test_so_they_are_where_a_pack_comes_back_because_the_least_is_one_by_now(self) -> None:
        fleet = asleep()
        fleet.service = following(least=1).model_copy(update={"status": fleet.service.status})
        fleet.activation = replace(HOLDS, held=1)
        led = []
        for look in range(5):
            decision = fleet.look()
            led.append((decision.status.ready_packs, decision.through_activator))
            if look == 0:
                fleet.memory = Memory()  # an operator that starts anew
        assert led == [(0, True), (0, True), (1, True), (1, False), (1, False)]

    def test_a_service_whose_least_is_one_is_never_led_there_again(self) -> None:
        fleet = sleepy()
        fleet.run(4, load=0.3)
        fleet.service = following(least=1).model_copy(update={"status": fleet.service.status})
        fleet.packs = []
        decision = fleet.look()
        assert decision.status.ready_packs == 0
        assert not decision.through_activator
        fleet.memory = Memory()
        fleet.service = following(least=1)
        fleet.activation = None
        assert not fleet.look().through_activator

    def test_it_stays_for_a_whole_period(self) -> None:
        fleet = asleep()
        fleet.activation = replace(HOLDS, held=1)
        fleet.run(4)
        fleet.activation = HOLDS
        fleet.run(int(LOOKS) - 1)
        assert fleet.ordinals == [0]
        fleet.run(3)
        assert fleet.ordinals == []

    def test_demand_adds_more_once_it_is_known(self) -> None:
        fleet = asleep()
        fleet.activation = replace(HOLDS, held=1)
        fleet.run(4)
        fleet.run(30, load=1.5)
        assert len(fleet.packs) >= 2


def _plans_of_a_new_pack(fleet: Fleet) -> tuple[Any, ...]:
    """What a pack that has just answered for the first time is told."""
    (seen,) = (p.seen() for p in fleet.packs)
    fresh = replace(seen, agent=pack_state(None))
    snapshot = Snapshot(fleet.service, NOW, (fresh,), fleet.memory, activation=HOLDS, seconds=1e6)
    return decide(snapshot, RULES, "t").plans


@pytest.mark.parametrize(
    ("bounds", "desired", "packs", "wanted"),
    [
        ({"minPacks": 0, "maxPacks": 4}, None, 0, 1),
        ({"minPacks": 0, "maxPacks": 4}, 0, 1, 0),
        ({"minPacks": 0, "maxPacks": 4}, 3, 3, 3),
        ({"maxPacks": 4}, 0, 0, 1),
    ],
)
def test_a_new_service_begins_with_a_pack_and_one_at_zero_stays_there(
    bounds: dict[str, int], desired: int | None, packs: int, wanted: int
) -> None:
    made: SLMService = service({"autoscaling": bounds})
    status = made.status.model_copy(update={"desired_packs": desired, "packs": packs})
    assert made.model_copy(update={"status": status}).wanted_packs == wanted
