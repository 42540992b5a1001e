"""The simulated GPU's instruments: energy is exact, power and use are a second old."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulated_gpu import FakeClock
from slm_worker.gpu.simulated.meter import PowerMeter


def test_power_is_the_mean_of_the_last_whole_second() -> None:
    clock = FakeClock()
    meter = PowerMeter(clock, 100.0)
    clock.now += 0.25
    meter.change(300.0, busy=True)
    clock.now += 0.7
    assert (meter.watts, meter.utilization) == (100.0, 0.0), "the second is not over"

    clock.now += 0.1
    assert meter.watts == pytest.approx(0.25 * 100 + 0.75 * 300)
    assert meter.utilization == pytest.approx(0.75)
    clock.now += 1.0
    assert meter.watts == pytest.approx(300)


def test_after_a_long_silence_only_the_last_second_counts() -> None:
    clock = FakeClock()
    meter = PowerMeter(clock, 100.0)
    clock.now += 0.5
    meter.change(300.0, busy=True)
    clock.now += 57.0

    assert meter.watts == pytest.approx(300)
    assert meter.utilization == pytest.approx(1)
    assert meter.joules == pytest.approx(0.5 * 100 + 57 * 300)


def test_energy_does_not_wait_for_a_sample() -> None:
    clock = FakeClock()
    meter = PowerMeter(clock, 100.0)
    clock.now += 0.125

    assert meter.joules == pytest.approx(12.5)


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(50, 700), st.booleans()), max_size=30),
)
def test_energy_is_the_integral_however_often_it_is_read(
    phases: list[tuple[float, int, bool]],
) -> None:
    clock = FakeClock(0.0)
    seldom, often = PowerMeter(clock, 50.0), PowerMeter(clock, 50.0)
    expected, watts = 0.0, 50
    for seconds, following, busy in phases:
        expected += seconds * watts
        clock.now += seconds
        assert often.joules == pytest.approx(expected)
        assert 50 - 1e-6 <= often.watts <= 700 + 1e-6
        assert -1e-9 <= often.utilization <= 1 + 1e-9
        for meter in (seldom, often):
            meter.change(following, busy=busy)
        watts = following

    assert seldom.joules == pytest.approx(expected)
    assert seldom.watts == pytest.approx(often.watts)
