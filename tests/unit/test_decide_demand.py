"""The operator follows demand: a service's passes, played against packs that serve what arrives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from builders import h100, pack, pack_state, service
from slm_operator.api.models import SLMService
from slm_operator.api.status import CalibrationStatus, LayoutStatus, SLMServiceStatus
from slm_operator.decide import points as shown
from slm_operator.decide.decision import Decision, decide
from slm_operator.decide.demand import SAMPLE_SECONDS, START_SECONDS, pack_start_seconds
from slm_operator.decide.fingerprint import fingerprint
from slm_operator.decide.snapshot import Activation, Memory, Pack, Snapshot, Trouble
from slm_operator.pareto.points import Probe
from slm_operator.pareto.window import WindowRules
from slm_worker.wire import (
    Counters,
    Load,
    LoadState,
    PackState,
    Plan,
    RouterState,
)

RULES = WindowRules(min_seconds=5, max_seconds=10, warmup_seconds=1)
PLAN = Plan(generation=1, layout={"replicas": 1, "max_num_seqs": 256}, rotation=1)
POINT = h100(Probe(1, 1, 256))
OUTPUT_TOKENS = 256
CAPACITY = POINT.output_tokens_per_second / OUTPUT_TOKENS
"""Requests a second that one pack serves: 30.8."""
NOW = "2026-01-01T00:00:00Z"
SILENCE = Trouble("AgentUnreachable", "the agent does not answer")


def following(
    least: int | None = 1, most: int = 4, stabilization: str = "5m", measured: bool = True
) -> SLMService:
    """A service whose only layout is measured."""
    packs: dict[str, Any] = {"maxPacks": most, "scaleDownStabilization": stabilization}
    if least is not None:
        packs["minPacks"] = least
    wanted = service({"autoscaling": {"maxReplicasPerPack": 1} | packs})
    if not measured:
        return wanted
    known = SLMServiceStatus(
        frontier=shown.frontier([POINT], None, None),
        calibration=CalibrationStatus(
            fingerprint=fingerprint(wanted, "", pack_state()),
            phase="Done",
            chosen=LayoutStatus(replicas_per_pack=1, max_num_seqs=256),
        ),
    )
    return wanted.model_copy(update={"status": known})


@dataclass
class FakePack:
    """Serves at most its capacity; the rest waits."""

    ordinal: int
    created_at: int
    starts_in: int
    """Looks until it serves."""
    agent: int = 0
    waiting: float = 0.0
    ended: float = 0.0
    load: LoadState = field(default_factory=LoadState)
    plan: Plan = PLAN
    silent: bool = False

    @property
    def ready(self) -> bool:
        return self.starts_in <= 0

    def state(self) -> PackState:
        return pack_state(
            self.plan,
            agent_id=f"{self.ordinal}-{self.agent}",
            load=self.load,
            router_queue=int(self.waiting),
            router=RouterState(batchable=int(self.ended), in_progress=int(self.waiting)),
            counters=Counters(
                sampled_at_seconds=1.0,
                requests_completed=int(self.ended),
                output_tokens=int(self.ended) * OUTPUT_TOKENS,
            ),
        )

    def seen(self) -> Pack:
        changes: dict[str, Any] = {
            "created": f"2026-01-01T00:00:00Z-{self.created_at:06d}",
            "uid": f"p{self.ordinal}-{self.created_at}",
        }
        if self.silent:
            return pack(None, self.ordinal, silence=SILENCE, **changes)
        if not self.ready:
            return pack(None, self.ordinal, address="", **changes)
        return pack(self.state(), self.ordinal, **changes)


class Fleet:
    """A service whose Pods appear and go as decided; clients share the ready ones evenly."""

    def __init__(self, wanted: SLMService, start_looks: int = 4) -> None:
        self.service = wanted
        self.memory = Memory()
        self.looks = 0
        self.start_looks = start_looks
        self.packs: list[FakePack] = [FakePack(0, 0, 0)]
        self.told: list[tuple[str, str]] = []
        self.writes = 0
        self.activation: Activation | None = None

    def look(self, load: float = 0.0) -> Decision:
        """A sampling period passes, in which ``load`` packs' full capacity arrives."""
        ready = [p for p in self.packs if p.ready]
        for one in ready:
            one.waiting += load * CAPACITY * SAMPLE_SECONDS / len(ready)
            served = min(one.waiting, CAPACITY * SAMPLE_SECONDS)
            one.waiting -= served
            one.ended += served
        for one in self.packs:
            one.starts_in -= 1
        self.looks += 1
        decision = self.decide()
        for going in decision.pods.delete:
            self.packs = [p for p in self.packs if p.ordinal != going.ordinal]
        for ordinal in decision.pods.create:
            self.packs.append(FakePack(ordinal, self.looks, self.start_looks))
        return decision

    def decide(self) -> Decision:
        packs = tuple(p.seen() for p in sorted(self.packs, key=lambda p: p.ordinal))
        seconds = self.looks * SAMPLE_SECONDS
        snapshot = Snapshot(
            self.service, NOW, packs, self.memory, seconds=seconds, activation=self.activation
        )
        decision = decide(snapshot, RULES, "t")
        self.writes += decision.status != self.service.status
        self.service = self.service.model_copy(update={"status": decision.status})
        self.memory = decision.memory
        self.told += [
            (e.reason, e.message) for e in decision.events if e.reason.startswith("Packs")
        ]
        return decision

    def run(self, looks: int, load: float = 0.0) -> Decision:
        for _ in range(looks):
            decision = self.look(load)
        return decision

    def ramp(self, load: float) -> Decision:
        """Demand that grows so slowly that packs keep up with it."""
        for tenth in range(3, round(load * 10) + 1):
            decision = self.run(4, tenth / 10)
        return decision

    def until_packs(self, count: int, load: float) -> Decision:
        for _ in range(40):
            decision = self.look(load)
            if len(self.packs) == count:
                return decision
        raise AssertionError(f"never {count} packs, but {self.ordinals}")

    @property
    def ordinals(self) -> list[int]:
        return sorted(p.ordinal for p in self.packs)


def scaling(decision: Decision) -> tuple[str, str]:
    found = decision.status.condition("ScalingActive")
    assert found is not None
    return found.status, found.reason


def message(decision: Decision) -> str:
    found = decision.status.condition("ScalingActive")
    assert found is not None
    return found.message


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
        def started(placing: float | None, *replicas: float | None) -> Pack:
            plan = PLAN.model_copy(
                update={"layout": PLAN.layout.model_copy(update={"replicas": len(replicas)})}
            )
            state = pack_state(plan)
            told = tuple(
                r.model_copy(update={"start_seconds": s})
                for r, s in zip(state.replicas, replicas, strict=True)
            )
            return pack(state.model_copy(update={"replicas": told}), placing_seconds=placing)

        assert pack_start_seconds([started(20.0, 30.0, 25.0), started(5.0, 40.0, 25.0)]) == 75.0
        assert pack_start_seconds([started(20.0, 30.0), started(90.0, 40.0, None)]) == 50.0
        assert pack_start_seconds([started(None, 30.0)]) == START_SECONDS
        assert pack_start_seconds([]) == START_SECONDS


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
