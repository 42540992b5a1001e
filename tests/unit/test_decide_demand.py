"""The operator follows demand: a service's passes, played against packs that serve what arrives."""

from __future__ import annotations

import pytest

from builders import pack, pack_state, service
from demand_fleet import (
    CAPACITY,
    NOW,
    OUTPUT_TOKENS,
    PLAN,
    RULES,
    Fleet,
    following,
    message,
    scaling,
)
from slm_operator.decide.decision import decide
from slm_operator.decide.demand import SAMPLE_SECONDS, START_SECONDS, pack_start_seconds
from slm_operator.decide.snapshot import Memory, Pack, Snapshot
from slm_worker.planning.memory import GIB
from slm_worker.wire import Load, LoadState


def test_packs_are_as_the_spec_says_where_demand_does_not_decide() -> None:
    fleet = Fleet(service({"packs": 1}))
    decision = fleet.run(20, load=3.0)
    assert (fleet.ordinals, decision.status.desired_packs) == ([0], 1)
    assert fleet.told == []


def test_growing_demand_adds_a_pack_and_says_why_with_figures() -> None:
    fleet = Fleet(following())
    fleet.run(8, load=0.5)
    assert fleet.ordinals == [0]
    decision = fleet.until_packs(2, load=1.4)
    assert fleet.looks <= 8 + 4, "within a minute of 40 % too much"
    assert decision.status.desired_packs == 2
    (entry,) = [e for e in decision.status.history if e.reason == "PacksAdded"]
    assert (entry.from_, entry.to, entry.rule) == ("1 pack", "2 packs", "DemandRising")
    assert "that takes 2" in entry.message
    told = {i.name: i.value for i in entry.inputs}
    assert float(told["packsOfWorkAhead"]) + float(told["packsOfWorkWaiting"]) > 1.05
    assert (told["packStartSeconds"], told["maxPacks"]) == ("120", "4")
    assert entry.point is not None and entry.point.output_tokens_per_second == 7887
    assert fleet.told == [("PacksAdded", f"DemandRising: {entry.message}")]


def test_packs_that_start_count_so_that_no_more_are_added_for_the_same_demand() -> None:
    fleet = Fleet(following(), start_looks=10)
    fleet.run(8, load=0.9)
    fleet.run(8, load=1.3)
    assert fleet.ordinals == [0, 1]


def test_no_more_than_the_most_allowed() -> None:
    fleet = Fleet(following(most=2))
    decision = fleet.run(30, load=5.0)
    assert fleet.ordinals == [0, 1]
    assert scaling(decision) == ("True", "AtMaxPacks")
    assert "more than the 2 of spec.autoscaling.maxPacks" in message(decision)


def test_the_fewest_allowed_run_without_any_demand() -> None:
    fleet = Fleet(following(least=2))
    decision = fleet.look()
    assert decision.status.desired_packs == 2
    assert fleet.ordinals == [0, 1]
    assert fleet.run(60).status.desired_packs == 2


def test_packs_go_the_newest_first_when_fewer_were_enough_for_the_whole_period() -> None:
    fleet = Fleet(following(stabilization="90s"), start_looks=1)
    fleet.ramp(2.6)
    assert fleet.ordinals == [0, 1, 2]
    steps = []
    for _ in range(40):
        decision = fleet.look(load=0.2)
        steps.append((fleet.ordinals, scaling(decision)))
    assert ([0, 1, 2], ("True", "Stabilizing")) in steps
    assert {tuple(ordinals) for ordinals, _ in steps} <= {(0, 1, 2), (0, 1), (0,)}
    assert fleet.ordinals == [0]
    assert scaling(decision) == ("True", "FollowingDemand")
    removed = [e for e in decision.status.history if e.reason == "PacksRemoved"]
    assert (removed[0].from_, removed[0].rule) == ("3 packs", "DemandFalling")
    assert "as for the last 90 s" in removed[0].message
    assert removed[-1].to == "1 pack"


def test_what_a_surge_took_stays_for_an_hour_and_the_condition_says_so() -> None:
    fleet = Fleet(following(stabilization="60s"))
    fleet.run(20, load=0.4)
    fleet.run(20, load=1.9)
    assert fleet.ordinals == [0, 1, 2], "to work off what waited meanwhile"
    decision = fleet.run(60, load=0.2)
    assert fleet.ordinals == [0, 1]
    assert "a surge within the last hour" in message(decision)
    fleet.run(220, load=0.2)
    assert fleet.ordinals == [0]


def test_a_short_lull_removes_nothing() -> None:
    fleet = Fleet(following(), start_looks=1)
    fleet.ramp(1.6)
    assert fleet.ordinals == [0, 1]
    fleet.run(10, load=0.1)
    fleet.run(4, load=1.6)
    assert fleet.ordinals == [0, 1]


def test_bounds_that_change_are_kept_at_once() -> None:
    fleet = Fleet(following(), start_looks=1)
    fleet.run(30, load=3.5)
    assert fleet.ordinals == [0, 1, 2, 3]
    fleet.service = following(most=2).model_copy(update={"status": fleet.service.status})
    decision = fleet.look(load=3.5)
    assert fleet.ordinals == [0, 1]
    entry = decision.status.history[-1]
    assert (entry.reason, entry.rule, entry.message) == (
        "PacksRemoved",
        "PackBounds",
        "minPacks is 1 and maxPacks 2",
    )


def test_a_service_that_begins_to_follow_demand_keeps_the_packs_that_it_has() -> None:
    fleet = Fleet(service({"packs": 3}))
    fleet.run(5)
    assert fleet.ordinals == [0, 1, 2]
    status = following().status.model_copy(
        update={"packs": 3, "desired_packs": fleet.service.status.desired_packs}
    )
    fleet.service = following().model_copy(update={"status": status})
    assert fleet.look(load=1.0).status.desired_packs == 3


def test_nothing_is_decided_before_a_pack_was_measured() -> None:
    decision = Fleet(following(measured=False)).run(6, load=2.0)
    assert decision.status.desired_packs == 1
    assert scaling(decision) == ("False", "DemandUnknown")


def after_some_quiet(quiet_looks: int = 14) -> Fleet:
    """Three packs, of which one has been enough for most of the stabilisation period."""
    fleet = Fleet(following(), start_looks=2)
    fleet.ramp(2.7)
    fleet.run(260, load=2.7)
    fleet.run(quiet_looks, load=0.4)
    assert fleet.ordinals == [0, 1, 2]
    fleet.told.clear()
    return fleet


class TestMissing:
    """What is not known holds."""

    def test_a_silent_pack_is_no_lack_of_demand(self) -> None:
        fleet = Fleet(following(stabilization="60s"), start_looks=1)
        fleet.ramp(1.6)
        fleet.packs[1].silent = True
        decision = fleet.run(40, load=0.1)
        assert fleet.ordinals == [0, 1]
        assert scaling(decision) == ("False", "HeldStale")
        assert "chat-pack-1 did not answer" in message(decision)

    def test_once_it_answers_again_demand_is_followed(self) -> None:
        fleet = Fleet(following(stabilization="60s"), start_looks=1)
        fleet.ramp(1.6)
        fleet.packs[1].silent = True
        fleet.run(8, load=0.1)
        fleet.packs[1].silent = False
        fleet.run(30, load=0.1)
        assert fleet.ordinals == [0]

    def test_packs_stay_when_a_load_came_back_while_an_agent_was_silent(self) -> None:
        fleet = after_some_quiet()
        fleet.packs[0].silent = True
        fleet.run(12, load=0.4)
        fleet.run(5, load=2.6)
        fleet.packs[0].silent = False
        fleet.run(30, load=2.6)
        assert (fleet.ordinals, fleet.told) == ([0, 1, 2], [])

    def test_packs_stay_when_a_load_came_back_at_the_end_of_a_minute_of_silence(self) -> None:
        fleet = after_some_quiet(quiet_looks=17)
        fleet.packs[0].silent = True
        fleet.run(3, load=0.4)
        fleet.run(1, load=2.6)
        fleet.packs[0].silent = False
        fleet.run(30, load=2.6)
        assert "PacksRemoved" not in [reason for reason, _ in fleet.told]

    def test_packs_stay_when_a_load_came_back_while_no_pass_was_made(self) -> None:
        fleet = after_some_quiet()
        for load in (0.4,) * 12 + (2.6,) * 5:
            fleet.pass_by(load)
        fleet.run(30, load=2.6)
        assert (fleet.ordinals, fleet.told) == ([0, 1, 2], [])

    def test_a_restarted_agent_is_no_fall_of_demand(self) -> None:
        fleet = Fleet(following(stabilization="60s"), start_looks=1)
        fleet.ramp(1.6)
        for _ in range(6):
            fleet.packs[1].agent += 1
            fleet.packs[1].ended = 0.0
            fleet.run(3, load=1.6)
        assert fleet.ordinals == [0, 1]
        assert fleet.told[1:] == []

    def test_a_restarted_operator_goes_on_from_the_number_it_had_decided(self) -> None:
        fleet = Fleet(following(), start_looks=1)
        fleet.run(20, load=1.6)
        fleet.memory = Memory()
        assert scaling(fleet.look(load=1.6)) == ("False", "HeldStale")
        fleet.run(10, load=1.6)
        assert fleet.ordinals == [0, 1]


class TestCalibration:
    """The saturating load is not demand."""

    def test_a_pack_that_is_saturated_by_the_operator_adds_no_pack(self) -> None:
        fleet = Fleet(following(), start_looks=1)
        fleet.run(10, load=0.5)
        one = fleet.packs[0]
        load = Load(prompt_tokens=128, output_tokens=OUTPUT_TOKENS)
        one.plan = PLAN.model_copy(update={"load": load})
        sent = 0
        for _ in range(20):
            # The load fills what users leave free, and 288 of its requests wait.
            sent += int(CAPACITY * SAMPLE_SECONDS)
            one.ended += int(CAPACITY * SAMPLE_SECONDS)
            one.load = LoadState(sent=sent, completed=sent, in_flight=288)
            fleet.look(load=0.5)
        assert fleet.ordinals == [0]
        one.plan, one.load = PLAN, LoadState(sent=sent, completed=sent)
        fleet.run(10, load=0.5)
        assert (fleet.ordinals, fleet.told) == ([0], [])

    def test_the_users_of_a_pack_that_is_measured_still_add_one(self) -> None:
        fleet = Fleet(following(), start_looks=1)
        fleet.run(10, load=0.5)
        one = fleet.packs[0]
        load = Load(prompt_tokens=128, output_tokens=OUTPUT_TOKENS)
        one.plan = PLAN.model_copy(update={"load": load})
        one.load = LoadState(in_flight=288)
        fleet.run(10, load=1.5)
        assert fleet.ordinals == [0, 1]


def test_a_sample_is_taken_at_its_time_however_often_the_operator_looks() -> None:
    fleet = Fleet(following())
    fleet.look()
    samples = [fleet.memory.demand.memory.samples]
    for seconds in (1.0, 7.0, 14.5, 16.0):
        packs = tuple(p.seen() for p in fleet.packs)
        at = SAMPLE_SECONDS + seconds
        snapshot = Snapshot(fleet.service, NOW, packs, fleet.memory, seconds=at)
        decision = decide(snapshot, RULES, "t")
        fleet.memory = decision.memory
        samples.append(decision.memory.demand.memory.samples)
        assert decision.poll_seconds <= SAMPLE_SECONDS
    assert [len(s) for s in samples] == [1, 1, 1, 2, 2]


def test_demand_that_stays_is_no_write() -> None:
    fleet = Fleet(following())
    fleet.run(40, load=0.6)
    before = fleet.writes
    fleet.run(40, load=0.6)
    assert fleet.writes == before


def test_packs_that_demand_adds_do_not_make_the_service_unready() -> None:
    fleet = Fleet(following(), start_looks=100)
    fleet.until_packs(2, load=1.4)
    decision = fleet.look(load=0.9)
    ready = decision.status.condition("Ready")
    assert ready is not None
    assert (ready.status, ready.message) == ("True", "1 of 2 packs answer requests")
    assert decision.poll_seconds == 2.0


class TestStart:
    """How far ahead demand is forecast."""

    def test_it_is_what_the_slowest_pack_told_of_its_own(self) -> None:
        def started(
            placing: float | None, *replicas: float | None, kv_cache_bytes: int | None = GIB
        ) -> Pack:
            plan = PLAN.model_copy(
                update={"layout": PLAN.layout.model_copy(update={"replicas": len(replicas)})}
            )
            state = pack_state(plan)
            told = tuple(
                r.model_copy(update={"start_seconds": s, "kv_cache_bytes": kv_cache_bytes})
                for r, s in zip(state.replicas, replicas, strict=True)
            )
            return pack(state.model_copy(update={"replicas": told}), placing_seconds=placing)

        assert pack_start_seconds([started(20.0, 30.0, 25.0), started(5.0, 40.0, 25.0)]) == 75.0
        assert pack_start_seconds([started(20.0, 30.0), started(90.0, 40.0, None)]) == 50.0
        assert pack_start_seconds([started(None, 30.0)]) == START_SECONDS
        assert pack_start_seconds([started(3600.0, 30.0)]) == 630.0, "it waited for a GPU"
        assert pack_start_seconds([]) == START_SECONDS
        together = started(20.0, 69.0, 36.0, 34.0, 40.0)
        assert pack_start_seconds([together]) == 129.0, "the first alone, the others together"
        one_by_one = started(20.0, 60.0, 30.0, 40.0, kv_cache_bytes=None)
        assert pack_start_seconds([one_by_one]) == 150.0


@pytest.mark.parametrize(
    ("written", "seconds"), [("0s", 0), ("90s", 90), ("5m", 300), ("1h", 3600)]
)
def test_the_stabilisation_is_read_in_seconds(written: str, seconds: float) -> None:
    scaling = following(stabilization=written).autoscaling
    assert scaling.scale_down_stabilization_seconds == seconds


def test_a_stored_status_of_an_earlier_release_counts_the_packs_that_are_there() -> None:
    before = following(most=4)
    status = before.status.model_copy(update={"packs": 3})
    snapshot = Snapshot(before.model_copy(update={"status": status}), NOW, ())
    decision = decide(snapshot, RULES, "t")
    assert decision.status.desired_packs == 3
