"""Energy only ever grows, whatever the counter or the clock does."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_worker.gpu.energy import MAX_GAP_SECONDS, EnergyMeter

COUNTERS = st.lists(st.integers(0, 2**64 - 1), min_size=1)
READINGS = st.lists(st.tuples(st.floats(0, 2_000), st.floats(0, 30)), min_size=1)
"""Watts, and the seconds since the reading before."""


def counted(*raw_millijoules: int) -> EnergyMeter:
    return reduce(EnergyMeter.counted, raw_millijoules, EnergyMeter())


def integrated(*readings: tuple[float, float]) -> EnergyMeter:
    """Of readings (watts, clock in seconds)."""
    meter = EnergyMeter()
    for watts, at_seconds in readings:
        meter = meter.integrated(watts, at_seconds)
    return meter


def test_a_counter_is_taken_as_it_is() -> None:
    assert counted(1_000, 1_500, 4_000).total_millijoules == 4_000


def test_after_a_jump_back_the_sum_goes_on_from_where_it_was() -> None:
    assert counted(1_000, 10, 30).total_millijoules == 1_020


@pytest.mark.parametrize("misread", [(0,), (0, 5), (0, 0, 999)])
def test_a_counter_that_is_back_after_it_was_misread_adds_nothing_twice(
    misread: tuple[int, ...],
) -> None:
    expected = 1_000_500 + max(misread)
    assert counted(1_000_000, *misread, 1_000_500).total_millijoules == expected


@given(COUNTERS)
def test_counted_energy_never_falls(raw_millijoules: list[int]) -> None:
    meters = [counted(*raw_millijoules[: n + 1]) for n in range(len(raw_millijoules))]
    totals = [meter.total_millijoules for meter in meters]
    assert totals == sorted(totals)


@given(COUNTERS.map(sorted))
def test_a_counter_that_never_jumps_back_is_not_changed(raw_millijoules: list[int]) -> None:
    assert counted(*raw_millijoules).total_millijoules == raw_millijoules[-1]


def test_power_is_integrated_by_trapezoids() -> None:
    assert integrated((100.0, 10.0), (200.0, 12.0), (200.0, 13.0)).total_millijoules == 500_000


def test_the_first_power_reading_is_the_zero() -> None:
    assert integrated((300.0, 99.0)).total_millijoules == 0


@pytest.mark.parametrize("gap_seconds", [MAX_GAP_SECONDS, MAX_GAP_SECONDS + 1, 86_400.0])
def test_a_long_gap_adds_no_more_than_the_longest_that_is_bridged(gap_seconds: float) -> None:
    meter = integrated((100.0, 0.0), (100.0, gap_seconds))
    assert meter.total_millijoules == 100 * MAX_GAP_SECONDS * 1000


@given(READINGS)
def test_integrated_energy_never_falls_and_stays_within_the_highest_power(
    readings: list[tuple[float, float]],
) -> None:
    at_seconds, meters = 0.0, [EnergyMeter()]
    for watts, elapsed_seconds in readings:
        at_seconds += elapsed_seconds
        meters.append(meters[-1].integrated(watts, at_seconds))
    assert all(b.total_millijoules >= a.total_millijoules for a, b in pairwise(meters))
    highest_watts = max(watts for watts, _ in readings)
    assert meters[-1].total_millijoules <= highest_watts * at_seconds * 1000 * (1 + 1e-9)


def test_a_clock_that_stands_still_adds_nothing() -> None:
    assert integrated((100.0, 5.0), (100.0, 5.0), (100.0, 4.0)).total_millijoules == 0


def test_a_counter_that_appears_later_adds_only_its_own_growth() -> None:
    meter = integrated((100.0, 0.0), (100.0, 1.0)).counted(9_000_000).counted(9_000_500)
    assert meter.total_millijoules == 100_500
