"""How long a surge that came faster than packs start is remembered, and what time counts in."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_operator.pareto.demand import (
    SURGE_REMEMBERED_SECONDS,
    DemandMemory,
    DemandRules,
    DemandSample,
    PackCost,
    _a_step_apart,
    decide_packs,
)

RULES = DemandRules(min_packs=1, max_packs=4, start_seconds=60)
COST = PackCost(prompt_token_seconds=0.0, output_token_seconds=0.001)
OUTPUT_TOKENS = 100
CAPACITY = 10.0
"""Requests a second that one pack serves: each takes 0.1 s of it."""
QUIET, SLACK, MORE, FULL, LARGER = 2.0, 8.0, 12.0, 14.0, 24.0
"""Requests a second: a fifth of a pack, under one, twice more than one and less than two, more than
two and less than three."""


class Hours:
    """Plays stretches of arrivals against packs that start in time, and queue what is too much.
    Each sample comes so much later than its period."""

    def __init__(self, rules: DemandRules = RULES, late_seconds: float = 0.0) -> None:
        self.rules = rules
        self.late_seconds = late_seconds
        self.memory = DemandMemory()
        self.now = self.until = self.arrived = self.waiting = 0.0
        self.packs = 1
        self.starting: list[float] = []
        self.history: list[tuple[float, int]] = []
        self.waited: list[float] = []

    def after(self, seconds: float, requests_per_second: float, silent: bool = False) -> None:
        period = self.rules.period_seconds + self.late_seconds
        self.until += seconds
        while self.now + period <= self.until + 1e-6:
            self.now += period
            self.arrived += requests_per_second * period
            ready = self.packs - sum(at > self.now for at in self.starting)
            unserved = self.waiting + (requests_per_second - ready * CAPACITY) * period
            self.waiting = max(0.0, unserved)
            if self.waiting:
                self.waited.append(self.now)
            self._decide(None if silent else self._sample())

    def _sample(self) -> DemandSample:
        completed = int(self.arrived - self.waiting)
        return DemandSample(
            at_seconds=self.now,
            arrived=int(self.arrived),
            completed=completed,
            prompt_tokens=0,
            output_tokens=completed * OUTPUT_TOKENS,
            waiting=int(self.waiting),
        )

    def _decide(self, sample: DemandSample | None) -> None:
        rules = self.rules
        demand, self.memory = decide_packs(self.memory, sample, self.now, self.packs, COST, rules)
        added = max(0, demand.packs - self.packs)
        self.starting += [self.now + rules.start_seconds] * added
        self.packs = demand.packs
        self.history.append((self.now, self.packs))

    @property
    def changes(self) -> list[tuple[float, int]]:
        """When there were how many from then on."""
        return [now for before, now in pairwise(self.history) if now[1] != before[1]]


def bursts(hours: Hours, requests_per_second: float, every: float, times: int) -> None:
    for _ in range(times):
        hours.after(every - 180, QUIET)
        hours.after(180, requests_per_second)


def test_packs_of_a_surge_stay_for_an_hour_and_no_longer() -> None:
    hours = Hours()
    bursts(hours, FULL, every=900, times=1)
    surge = hours.memory.surges[-1][0]
    hours.after(SURGE_REMEMBERED_SECONDS + 600, QUIET)
    within = [packs for at, packs in hours.history if surge < at < surge + 3600]
    assert min(within) == 2
    assert hours.packs == 1


def test_only_the_first_of_surges_that_go_on_for_hours_lets_requests_wait() -> None:
    hours = Hours()
    bursts(hours, FULL, every=1800, times=10)
    assert hours.waited
    assert max(hours.waited) < 1800 + 300
    assert all(packs >= 2 for at, packs in hours.history if at > 2100)


def test_smaller_surges_keep_what_they_take_and_not_what_a_larger_one_did() -> None:
    hours = Hours()
    bursts(hours, LARGER, every=900, times=1)
    hours.after(300, QUIET)
    hours.waited.clear()
    bursts(hours, FULL, every=1800, times=4)
    assert not hours.waited
    hours.after(600, QUIET)
    assert hours.packs == 2
    bursts(hours, SLACK, every=1800, times=3)
    assert hours.packs == 1


def test_a_surge_that_nobody_had_to_wait_for_is_forgotten() -> None:
    hours = Hours()
    for step in range(40):
        hours.after(60, QUIET + 0.3 * step)
    hours.after(240, QUIET)
    hours.waited.clear()
    hours.after(180, FULL)
    assert (hours.packs, hours.waited) == (2, [])
    hours.after(900, QUIET)
    assert hours.packs == 1


def test_how_fast_the_first_load_came_is_not_known_so_its_packs_stay_for_an_hour() -> None:
    hours = Hours()
    hours.packs = 2
    hours.after(180, FULL)
    hours.after(SURGE_REMEMBERED_SECONDS - 300, QUIET)
    assert hours.packs == 2
    hours.after(900, QUIET)
    assert hours.packs == 1


def test_a_load_that_creeps_up_is_no_surge() -> None:
    hours = Hours()
    for step in range(40):
        hours.after(60, QUIET + 0.3 * step)
    assert hours.packs == 2
    assert hours.memory.surges == ()
    assert all(later >= earlier for (_, earlier), (_, later) in pairwise(hours.history))


def a_day(rules: DemandRules, late_seconds: float = 0.0) -> Hours:
    """Of a load that grows to more than two packs, falls, and comes back at once."""
    hours = Hours(rules, late_seconds)
    for step in range(40):
        hours.after(60, QUIET + 0.5 * step)
    hours.after(1800, QUIET)
    hours.after(600, MORE)
    hours.after(SURGE_REMEMBERED_SECONDS + 1200, QUIET)
    return hours


@pytest.mark.parametrize(
    ("period_seconds", "late_seconds"),
    [(13.0, 0.0), (13.0, 0.6), (12.0, 0.0), (10.0, 0.0), (6.7, 0.1), (5.0, 0.0), (2.0, 0.0)],
)
def test_the_period_of_the_samples_does_not_matter(
    period_seconds: float, late_seconds: float
) -> None:
    usual = a_day(RULES).changes
    found = a_day(replace(RULES, period_seconds=period_seconds), late_seconds).changes
    assert [packs for _, packs in found] == [packs for _, packs in usual] == [2, 3, 2, 1, 2, 1]
    for (at, _), (usually_at, _) in zip(found, usual, strict=True):
        assert at == pytest.approx(usually_at, abs=60)


@given(period_seconds=st.floats(1.0, 60.0), late_share=st.floats(-1 / 15, 0.25))
def test_samples_that_count_are_a_step_apart_however_late_they_come(
    period_seconds: float, late_share: float
) -> None:
    rules = replace(RULES, period_seconds=period_seconds)
    apart = period_seconds * (1 + late_share)
    samples = tuple(DemandSample(n * apart, n, n, 0, n) for n in range(100))
    counting = _a_step_apart(samples, rules)
    gap = (counting[-1].at_seconds - counting[0].at_seconds) / (len(counting) - 1)
    nearest = period_seconds / 2 + max(0.0, apart - period_seconds)
    assert gap == pytest.approx(rules.step_seconds, abs=nearest + 1e-6)


def test_what_comes_in_the_first_seconds_is_no_rate_yet() -> None:
    hours = Hours(replace(RULES, period_seconds=2.0))
    hours.after(4, FULL)
    hours.after(600, SLACK)
    assert (hours.changes, hours.memory.surges) == ([], ())


@pytest.mark.parametrize(("start_seconds", "late_seconds"), [(1500, 0.0), (1100, 1.0)])
def test_a_load_that_stays_is_no_surge_though_packs_take_long_to_start(
    start_seconds: float, late_seconds: float
) -> None:
    hours = Hours(replace(RULES, start_seconds=start_seconds), late_seconds)
    hours.packs = 2
    hours.after(2 * SURGE_REMEMBERED_SECONDS, FULL)
    assert hours.memory.surges == ()


def test_a_load_that_stays_is_no_surge_after_a_silence() -> None:
    hours = Hours(replace(RULES, start_seconds=720))
    hours.packs = 2
    hours.after(2 * SURGE_REMEMBERED_SECONDS, FULL)
    hours.after(480, FULL, silent=True)
    hours.after(600, FULL)
    assert hours.memory.surges == ()
