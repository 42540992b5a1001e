"""How long a surge that came faster than packs start is remembered."""

from __future__ import annotations

from itertools import pairwise

from slm_operator.pareto.demand import (
    SURGE_REMEMBERED_SECONDS,
    DemandMemory,
    DemandRules,
    DemandSample,
    PackCost,
    decide_packs,
)

RULES = DemandRules(min_packs=1, max_packs=4, start_seconds=60)
COST = PackCost(prompt_token_seconds=0.0, output_token_seconds=0.001)
OUTPUT_TOKENS = 100
CAPACITY = 10.0
"""Requests a second that one pack serves: each takes 0.1 s of it."""
QUIET, SLACK, FULL, LARGER = 2.0, 8.0, 14.0, 24.0
"""Requests a second: a fifth of a pack, under one, more than one and less than two, than three."""
PERIOD = RULES.period_seconds


class Hours:
    """Plays stretches of arrivals against packs that start in time, and queue what is too much."""

    def __init__(self) -> None:
        self.memory = DemandMemory()
        self.now = self.arrived = self.waiting = 0.0
        self.packs = 1
        self.starting: list[float] = []
        self.history: list[tuple[float, int]] = []
        self.waited: list[float] = []

    def after(self, seconds: float, requests_per_second: float) -> None:
        for _ in range(int(seconds / PERIOD)):
            self.now += PERIOD
            self.arrived += requests_per_second * PERIOD
            ready = self.packs - sum(at > self.now for at in self.starting)
            unserved = self.waiting + (requests_per_second - ready * CAPACITY) * PERIOD
            self.waiting = max(0.0, unserved)
            if self.waiting:
                self.waited.append(self.now)
            self._decide()

    def _decide(self) -> None:
        completed = int(self.arrived - self.waiting)
        sample = DemandSample(
            at_seconds=self.now,
            arrived=int(self.arrived),
            completed=completed,
            prompt_tokens=0,
            output_tokens=completed * OUTPUT_TOKENS,
            waiting=int(self.waiting),
        )
        demand, self.memory = decide_packs(self.memory, sample, self.now, self.packs, COST, RULES)
        added = max(0, demand.packs - self.packs)
        self.starting += [self.now + RULES.start_seconds] * added
        self.packs = demand.packs
        self.history.append((self.now, self.packs))


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
