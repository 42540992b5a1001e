"""When the traffic counts as another one, and when it is only luck."""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_operator.pareto.shift import (
    Shift,
    ShiftRules,
    Tally,
    Watch,
    burstiness,
    interrupted,
    observed,
    settled_reference,
    shifted,
    watched,
)
from slm_operator.pareto.workload import Workload
from slm_worker.planning.catalogue import gpus
from slm_worker.planning.measured import STUDY_GPU, config_of
from slm_worker.planning.performance import predictor_of
from slm_worker.planning.workload import STUDY
from slm_worker.planning.workload import Workload as Requests

RULES = ShiftRules()
AZURE = Path(__file__).parents[1] / "fixtures" / "azure_conversation" / "quarter-minutes.csv"
POLL_SECONDS = 15.0
CHAT = Workload(1000.0, 250.0, "Steady")


@dataclass
class Traffic:
    """Counts requests as an agent does, and is watched at each poll."""

    watch: Watch = field(default_factory=Watch)
    agent_id: str = "a"
    seconds: float = 0.0
    requests: int = 0
    prompt_tokens: float = 0.0
    output_tokens: float = 0.0
    saturated_seconds: float = 0.0
    capped_seconds: float = 0.0
    rules: ShiftRules = field(default_factory=ShiftRules)

    def __post_init__(self) -> None:
        self._look()

    def poll(
        self,
        requests: int,
        prompt: float = 1000.0,
        output: float = 250.0,
        capped: float = 0.0,
        full: float = 0.0,
    ) -> Traffic:
        """``requests`` of these mean lengths came and were served since the last poll."""
        self.seconds += POLL_SECONDS
        self.requests += requests
        self.prompt_tokens += requests * prompt
        self.output_tokens += requests * output
        self.capped_seconds += capped * POLL_SECONDS
        self.saturated_seconds += full * POLL_SECONDS
        self._look()
        return self

    def minutes(self, count: float, requests: int = 80, **lengths: float) -> Traffic:
        for _ in range(round(count * 60 / POLL_SECONDS)):
            self.poll(requests, **lengths)
        return self

    def shift(self, reference: Workload = CHAT, power_capped: float | None = None) -> Shift | None:
        return shifted(self.watch, reference, power_capped, self.rules)

    def _look(self) -> None:
        now = Tally(
            agent_id=self.agent_id,
            at_seconds=self.seconds,
            prompt_tokens=round(self.prompt_tokens),
            begun=self.requests,
            output_tokens=round(self.output_tokens),
            completed=self.requests,
            arrived=self.requests,
            saturated_seconds=self.saturated_seconds,
            power_capped_seconds=self.capped_seconds,
        )
        self.watch = watched(self.watch, now, self.rules)


def test_the_same_traffic_is_no_shift() -> None:
    assert Traffic().minutes(60).shift() is None


def test_ten_minutes_of_longer_answers_are_a_shift_with_both_numbers() -> None:
    traffic = Traffic().minutes(20).minutes(9.75, output=400.0)
    assert traffic.shift() is None
    found = traffic.minutes(0.25, output=400.0).shift()
    assert found is not None
    assert found.reason == "LengthsShifted"
    assert found.message == (
        "for 10 minutes answers have 400 tokens on average, 1.6 times more than the 250 of before"
    )
    assert found.workload == Workload(1000.0, 400.0, "Steady")


def test_prompts_count_as_well_and_so_do_shorter_ones() -> None:
    found = Traffic().minutes(10, prompt=500.0, output=150.0).shift()
    assert found is not None
    assert "prompts have 500 tokens on average, 2.0 times fewer than the 1,000" in found.message
    assert "answers have 150 tokens on average, 1.7 times fewer than the 250" in found.message


def test_a_change_below_the_ratio_is_none_however_long_it_lasts() -> None:
    assert Traffic().minutes(120, output=320.0).shift() is None


def test_one_minute_near_the_old_lengths_says_that_nothing_lasting_happened() -> None:
    traffic = Traffic().minutes(6, output=500.0).minutes(1, output=260.0).minutes(8, output=500.0)
    assert traffic.shift() is None
    assert traffic.minutes(3, output=500.0).shift() is not None


def test_a_burst_of_huge_requests_is_no_shift() -> None:
    traffic = Traffic().minutes(9).minutes(1, requests=800, output=2000.0)
    now = observed(traffic.watch, RULES)
    assert now is not None
    assert now.output_tokens > 1.3 * CHAT.output_tokens
    assert traffic.shift() is None


def test_between_the_two_ratios_it_stays_as_it_is() -> None:
    """The new reference has to be left by as much as the old one had."""
    traffic = Traffic().minutes(10, output=330.0)
    found = traffic.shift()
    assert found is not None
    after = settled_reference(found.workload, [CHAT], RULES)
    assert after == found.workload, "a new one, since its lengths are those of no known points"
    back = Traffic().minutes(60, output=290.0)
    assert back.shift(CHAT) is None
    assert back.shift(after) is None


def test_a_return_to_former_lengths_takes_up_the_former_points() -> None:
    code = Workload(2000.0, 30.0, "Steady")
    now = Workload(1100.0, 230.0, "Steady")
    assert settled_reference(now, [code, CHAT], RULES) == CHAT
    assert settled_reference(now, [code], RULES) == now
    nearer = Workload(1050.0, 240.0, "Steady")
    assert settled_reference(now, [CHAT, nearer], RULES) == nearer


def test_a_sparse_traffic_is_judged_by_as_many_requests() -> None:
    traffic = Traffic().minutes(60, requests=2, output=400.0)
    assert observed(traffic.watch, RULES) is None
    assert traffic.minutes(66, requests=2, output=400.0).shift() is not None


def test_nothing_is_said_of_a_service_without_traffic() -> None:
    traffic = Traffic().minutes(60, requests=0)
    assert observed(traffic.watch, RULES) is None
    assert traffic.shift() is None


def test_an_agent_that_restarts_loses_a_minute_and_not_what_was_seen() -> None:
    traffic = Traffic().minutes(9.5, output=400.0)
    traffic.agent_id, traffic.requests = "b", 0
    traffic.prompt_tokens = traffic.output_tokens = 0.0
    assert traffic.minutes(1, output=400.0).shift() is None
    assert traffic.minutes(1, output=400.0).shift() is not None


def test_what_was_counted_of_another_load_takes_no_part() -> None:
    traffic = Traffic().minutes(9, output=400.0)
    traffic.watch = interrupted(traffic.watch)
    traffic.minutes(0.25, output=10.0)
    assert len(traffic.watch.stretches) == 9
    assert traffic.minutes(1, output=400.0).shift() is not None


class TestArrivals:
    def test_traffic_that_comes_and_goes_by_the_minute_is_bursty(self) -> None:
        traffic = Traffic()
        for minute in range(40):
            traffic.minutes(1, requests=150 if minute % 2 else 0)
        found = traffic.shift()
        assert found is not None
        assert found.reason == "ArrivalsShifted"
        assert "swings by 99% beyond chance: Bursty, where it was Steady" in found.message
        calm = traffic.minutes(10).shift(found.workload)
        assert calm is not None
        assert calm.workload.arrivals == "Steady"

    def test_a_single_burst_is_none(self) -> None:
        traffic = Traffic().minutes(8).minutes(1, requests=900).minutes(1)
        assert burstiness(traffic.watch.stretches) > RULES.bursty_from
        assert traffic.shift() is None

    def test_what_is_neither_keeps_its_name(self) -> None:
        traffic = Traffic()
        for poll in range(80):
            traffic.poll(130 if poll % 2 else 50)
        now = observed(traffic.watch, RULES)
        assert now is not None
        assert now.arrivals is None
        bursty = Workload(CHAT.prompt_tokens, CHAT.output_tokens, "Bursty")
        assert traffic.shift() is None
        assert traffic.shift(bursty) is None

    @pytest.mark.parametrize("rate", [4.0, 40.0, 400.0])
    def test_independent_arrivals_do_not_swing_whatever_their_rate(self, rate: float) -> None:
        rng = random.Random(7)
        traffic = Traffic()
        for _ in range(240):
            traffic.poll(poisson(rng, rate * POLL_SECONDS / 10))
        assert burstiness(traffic.watch.stretches) < 0.2

    def test_another_kind_of_arrivals_has_points_of_its_own(self) -> None:
        bursty = Workload(1000.0, 250.0, "Bursty")
        assert not bursty.near(CHAT, RULES.enter_ratio)
        assert Workload(1000.0, 250.0).near(bursty, RULES.enter_ratio)


class TestPowerLimit:
    def test_a_limit_that_was_lowered_is_a_shift(self) -> None:
        found = Traffic().minutes(10, capped=0.9).shift(power_capped=0.0)
        assert found is not None
        assert found.reason == "PowerLimitShifted"
        assert "for 90% of the time, where it was for 0%: the limit was lowered" in found.message

    def test_a_gpu_that_was_measured_at_its_limit_may_be_there_and_need_not(self) -> None:
        assert Traffic().minutes(10, capped=0.9).shift(power_capped=1.0) is None
        assert Traffic().minutes(10, capped=0.0, full=0.3).shift(power_capped=1.0) is None

    def test_a_full_gpu_below_the_limit_that_it_had_is_a_shift(self) -> None:
        found = Traffic().minutes(10, capped=0.0, full=1.0).shift(power_capped=1.0)
        assert found is not None
        assert "raised" in found.message

    def test_a_minute_at_the_limit_is_none(self) -> None:
        assert Traffic().minutes(9, capped=0.0).minutes(1, capped=1.0).shift(power_capped=0) is None


def poisson(rng: random.Random, mean: float) -> int:
    """Arrivals of a stretch in which ``mean`` are expected."""
    count, elapsed = 0, rng.expovariate(1.0)
    while elapsed < mean:
        count += 1
        elapsed += rng.expovariate(1.0)
    return count


def lognormal(rng: random.Random, mean: float, variation: float) -> float:
    """A heavy-tailed length; ``variation``: standard deviation over mean."""
    sigma = math.sqrt(math.log(1 + variation**2))
    return rng.lognormvariate(math.log(mean) - sigma**2 / 2, sigma)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    variation=st.floats(0.5, 3.0),
    per_poll=st.integers(1, 60),
)
def test_luck_in_heavy_tailed_lengths_never_opens_the_search(
    seed: int, variation: float, per_poll: int
) -> None:
    """An hour; the standard deviation is up to three times the mean (the Azure trace: one)."""
    rng = random.Random(seed)
    traffic = Traffic()
    for _ in range(240):
        count = poisson(rng, per_poll)
        lengths = [lognormal(rng, 250.0, variation) for _ in range(count)]
        prompts = [lognormal(rng, 1000.0, variation) for _ in range(count)]
        traffic.poll(
            count,
            prompt=sum(prompts) / max(1, count),
            output=sum(lengths) / max(1, count),
        )
        assert traffic.shift() is None


def azure_shifts() -> Iterable[tuple[float, Shift, Workload, bool]]:
    """What happens over the recorded hour: minute, shift, the reference from then on, and whether
    it is a former one."""
    traffic, reference, known = Traffic(), None, list[Workload]()
    with AZURE.open(newline="", encoding="ascii") as file:
        rows = [{k: int(v) for k, v in row.items()} for row in csv.DictReader(file)]
    for row in rows:
        count = row["requests"]
        traffic.poll(
            count,
            prompt=row["prompt_tokens"] / max(1, count),
            output=row["output_tokens"] / max(1, count),
        )
        now = observed(traffic.watch, RULES)
        if now is None:
            continue
        if reference is None:
            reference = now
            known.append(now)
        elif found := traffic.shift(reference):
            reference = settled_reference(found.workload, known, RULES)
            yield traffic.seconds / 60, found, reference, reference in known
            known.append(reference)
            traffic.watch = Watch()


def test_the_azure_hour_shifts_when_its_answers_really_become_shorter_and_when_they_return() -> (
    None
):
    """Its answers have 285 tokens on average until the tenth minute, 110 to 170 from the 22nd to
    the 36th, and 270 again from the 47th on. Prompts stay within the ratio, arrivals steady."""
    down, back = azure_shifts()
    minute, shift, reference, former = down
    assert minute == pytest.approx(31, abs=0.5)
    assert "answers have 157 tokens on average, 1.7 times fewer than the 260" in shift.message
    assert reference.output_tokens == pytest.approx(157, abs=1)
    assert not former
    minute, shift, reference, former = back
    assert minute == pytest.approx(47.25, abs=0.5)
    assert shift.workload.output_tokens == pytest.approx(207, abs=2)
    assert former, "the points of the first half hour count again: nothing is measured anew"
    assert reference.output_tokens == pytest.approx(260, abs=1)
    assert {shift.reason for _, shift, _, _ in (down, back)} == {"LengthsShifted"}


def gain_of_a_second_replica(ratio: float) -> tuple[float, float]:
    """Predicted output tokens/s of one replica, and what a second adds as a share of them."""
    requests = Requests(STUDY.prompt_tokens * ratio, STUDY.output_tokens * ratio)
    predictor = predictor_of(
        config_of("opt-1.3b"), gpus()[STUDY_GPU], chunked_prefill=False, workload=requests
    )
    one, two = (predictor.simulate(n, 256).figures.tokens_per_second for n in (1, 2))
    return one, two / one - 1


def test_at_the_entry_ratio_capacity_and_the_gain_on_which_a_knee_hangs_move() -> None:
    """Three percent are what each replica has to add by default (minThroughputGainPercent)."""
    one, gain = gain_of_a_second_replica(1.0)
    for ratio in (RULES.enter_ratio, 1 / RULES.enter_ratio):
        other, other_gain = gain_of_a_second_replica(ratio)
        assert abs(other / one - 1) > 0.05
        assert abs(other_gain - gain) > 0.03
