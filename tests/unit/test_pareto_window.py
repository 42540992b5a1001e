"""Which stretch of samples is a measurement, and what it says."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import steady
from slm_operator.pareto.confidence import quantile
from slm_operator.pareto.window import Measurement, Measuring, Sample, WindowRules, evaluate
from slm_worker.wire import Histogram, LoadState

RULES = WindowRules(min_seconds=30, max_seconds=120, warmup_seconds=5)


def measured(samples: list[Sample]) -> Measurement:
    result = evaluate(samples, RULES)
    assert isinstance(result, Measurement), result
    return result


def pending(samples: list[Sample]) -> Measuring:
    result = evaluate(samples, RULES)
    assert isinstance(result, Measuring), result
    return result


def changed(sample: Sample, **counters: object) -> Sample:
    return replace(sample, counters=sample.counters.model_copy(update=counters))


def test_a_steady_saturated_window_gives_throughput_power_and_latency() -> None:
    result = measured(steady(40, 1000.0, watts=400.0))
    assert result.output_tokens_per_second == pytest.approx(1000.0)
    assert result.confidence_tokens_per_second == pytest.approx(0.0, abs=1e-6)
    assert result.power_watts == pytest.approx(400.0)
    assert result.itl_p95_seconds == pytest.approx(0.04875)
    assert result.saturated_fraction == pytest.approx(1.0)


def test_no_sample_is_not_a_measurement_of_zero() -> None:
    assert pending([]).reason == "Settling"


def test_a_short_window_says_how_long_still() -> None:
    result = pending(steady(20))
    assert (result.reason, result.message) == ("Measuring", "20 of 30 s")


def test_warm_up_after_settling_is_discarded() -> None:
    samples = steady(40, start_seconds=100.0, settled_since_seconds=110.0)
    assert pending(samples).elapsed_seconds == pytest.approx(25.0)


def test_unknown_power_stays_unknown() -> None:
    assert measured(steady(40, watts=None)).power_watts is None


def test_one_reading_of_power_that_was_missed_does_not_make_it_unknown() -> None:
    samples = steady(40, watts=400.0)
    samples[-1] = changed(samples[-1], energy_millijoules=None)
    assert measured(samples).power_watts == pytest.approx(400.0)
    mostly = [changed(s, energy_millijoules=None) if i > 20 else s for i, s in enumerate(samples)]
    assert measured(mostly).power_watts is None


def test_a_window_without_waiting_requests_measures_nothing() -> None:
    assert pending(steady(40, saturated=False)).reason == "NotSaturated"


def test_samples_before_saturation_are_left_out() -> None:
    idle = steady(20, 10.0, saturated=False)
    busy = [
        changed(
            s,
            sampled_at_seconds=s.counters.sampled_at_seconds + 20,
            output_tokens=s.counters.output_tokens + 200,
        )
        for s in steady(35, 1000.0)
    ]
    assert measured(idle + busy[1:]).output_tokens_per_second == pytest.approx(1000.0)


def test_a_gap_in_saturation_restarts_the_window_behind_it() -> None:
    samples = steady(50)
    lagging = [
        changed(s, saturated_seconds=max(0.0, s.counters.saturated_seconds - 6)) if i > 15 else s
        for i, s in enumerate(samples)
    ]
    assert measured(lagging).saturated_fraction > 0.99
    assert pending(lagging[:30]).reason == "Measuring"


def batch_of(running: int, samples: list[Sample]) -> list[Sample]:
    """So many sequences run, and one completes each second."""
    return [
        replace(changed(s, requests_completed=i), running=running) for i, s in enumerate(samples)
    ]


def test_a_window_begins_once_the_first_batch_has_been_replaced() -> None:
    samples = batch_of(20, steady(60))
    waiting = pending(samples[:20])
    assert (waiting.reason, waiting.elapsed_seconds) == ("WarmingUp", 0.0)
    assert waiting.message == "19 of the 20 sequences that began together have been replaced"
    assert measured(samples[:51]).window_seconds == pytest.approx(30.0)
    assert pending(samples[:50]).elapsed_seconds == pytest.approx(29.0)


def test_after_a_pause_the_batch_is_a_new_one() -> None:
    samples = batch_of(10, steady(60))
    paused = [
        changed(s, saturated_seconds=max(0.0, s.counters.saturated_seconds - 4)) if i > 30 else s
        for i, s in enumerate(samples)
    ]
    assert pending(paused[:38]).message.startswith("6 of the 10 sequences")
    assert pending(paused).elapsed_seconds == pytest.approx(19.0)


def test_of_an_agent_that_does_not_tell_what_runs_the_time_alone_is_the_warm_up() -> None:
    assert measured(batch_of(0, steady(40))).window_seconds == pytest.approx(40.0)


def hot(samples: list[Sample], after: float, seconds: float) -> list[Sample]:
    return [
        changed(s, throttled_seconds=min(seconds, max(0.0, i - after)))
        for i, s in enumerate(samples)
    ]


def test_a_gpu_that_heat_holds_down_is_measured_only_once_that_has_passed() -> None:
    result = pending(hot(steady(40), after=20, seconds=4))
    assert result.reason == "Throttled"
    assert "for 13% of the last 30 s, 5% are allowed" in result.message
    assert measured(hot(steady(54), after=20, seconds=4)).window_seconds == pytest.approx(30.0)


def test_a_moment_of_lower_clocks_spoils_no_window() -> None:
    assert measured(hot(steady(40), after=20, seconds=1))


def failing(samples: list[Sample], of_a_hundred: int, until: float) -> list[Sample]:
    """A hundred requests of the load end a second, some of them in a failure at first."""

    def ended(second: int) -> LoadState:
        failed = round(of_a_hundred * min(second, until))
        return LoadState(sent=100 * second, completed=100 * second - failed, failed=failed)

    return [replace(s, load=ended(i)) for i, s in enumerate(samples)]


def test_a_window_in_which_requests_of_the_load_fail_is_none_until_that_has_passed() -> None:
    result = pending(failing(steady(40), of_a_hundred=2, until=40))
    assert result.reason == "LoadFails"
    assert "2% of the load's requests of the last 30 s failed, 1% are allowed" in result.message
    passed = failing(steady(60), of_a_hundred=10, until=20)
    assert pending(passed[:41]).reason == "LoadFails"
    assert measured(passed).window_seconds == pytest.approx(30.0)


def test_a_failure_now_and_then_spoils_no_window() -> None:
    assert measured(failing(steady(40), of_a_hundred=1, until=40))


def test_requests_that_users_leave_no_room_spoil_no_window() -> None:
    samples = [
        replace(s, load=LoadState(completed=i, failed=9 * i, turned_away=9 * i))
        for i, s in enumerate(steady(40))
    ]
    assert measured(samples)


def test_failures_before_the_window_spoil_none() -> None:
    samples = [replace(s, load=LoadState(sent=90, failed=90)) for s in steady(40)]
    assert measured(samples)


def test_a_gpu_at_its_power_limit_is_measured_and_the_window_says_so() -> None:
    samples = [changed(s, power_capped_seconds=i / 2) for i, s in enumerate(steady(40))]
    assert measured(samples).power_capped_fraction == pytest.approx(0.5)


def test_a_window_knows_the_lengths_of_its_requests() -> None:
    samples = [
        changed(s, requests_completed=4 * i, prompt_tokens=600 * i)
        for i, s in enumerate(steady(40, 1000.0))
    ]
    result = measured(samples)
    assert (result.prompt_tokens, result.output_tokens) == (150.0, 250.0)
    assert measured(steady(40)).output_tokens is None
    # Prompts are counted when they are read, and so are their requests.
    began = [changed(s, ttft=Histogram(count=6 * i)) for i, s in enumerate(samples)]
    assert measured(began).prompt_tokens == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("reason", "update"),
    [
        ("ReplicaRestarted", {"replica_starts": 1}),
        ("MetricsMissing", {"missed_samples": 1}),
    ],
)
def test_a_broken_window_starts_anew(reason: str, update: dict[str, object]) -> None:
    samples = steady(40)
    broken = samples[:36] + [changed(s, **update) for s in samples[36:]]
    assert pending(broken).elapsed_seconds == pytest.approx(4.0)
    assert pending(broken[:37]).reason == reason


def test_an_agent_that_restarted_is_a_counter_reset() -> None:
    assert pending(steady(40) + steady(0, start_seconds=5, agent_id="b")).reason == "CounterReset"


def test_a_counter_that_jumps_back_is_a_reset_too() -> None:
    samples = steady(40)
    samples.append(changed(samples[-1], sampled_at_seconds=141.0, output_tokens=3))
    assert pending(samples).reason == "CounterReset"


def noisy(seconds: int, spread: float, seed: int) -> list[Sample]:
    rng = random.Random(seed)
    samples, tokens = [], 0.0
    for sample in steady(seconds):
        samples.append(changed(sample, output_tokens=int(tokens)))
        tokens += 1000 * (1 + rng.uniform(-spread, spread))
    return samples


def test_a_noisy_window_is_prolonged_until_its_interval_is_narrow() -> None:
    assert pending(noisy(35, 0.4, 1)).reason == "Measuring"
    result = measured(noisy(130, 0.4, 1))
    assert result.confidence_tokens_per_second > 0


def test_lost_polls_lose_nothing() -> None:
    samples = steady(40)
    sparse = samples[:1] + samples[8:9] + samples[20:21] + samples[40:]
    assert measured(sparse).output_tokens_per_second == pytest.approx(1000.0)


@given(seed=st.integers(0, 2**16), spread=st.floats(0.0, 0.5), seconds=st.integers(0, 150))
def test_whatever_the_noise_the_figure_lies_among_the_rates(
    seed: int, spread: float, seconds: int
) -> None:
    samples = noisy(seconds, spread, seed)
    result = evaluate(samples, RULES)
    if isinstance(result, Measurement):
        rates = [b.counters.output_tokens - a.counters.output_tokens for a, b in pairwise(samples)]
        assert min(rates) <= result.output_tokens_per_second <= max(rates)
        assert result.window_seconds >= RULES.min_seconds


def test_quantiles_are_linear_inside_a_bucket() -> None:
    before = Histogram(bounds_seconds=(0.1, 0.2, 0.4), cumulative=(5, 5, 5), count=5)
    after = Histogram(bounds_seconds=(0.1, 0.2, 0.4), cumulative=(5, 15, 25), count=25)
    assert quantile(before, after, 0.5) == pytest.approx(0.2)
    assert quantile(before, after, 0.75) == pytest.approx(0.3)


def test_a_quantile_of_nothing_is_unknown_and_one_beyond_the_buckets_is_the_last_bound() -> None:
    empty = Histogram()
    beyond = Histogram(bounds_seconds=(0.1,), cumulative=(0,), count=3)
    assert quantile(empty, empty, 0.95) is None
    assert quantile(empty, beyond, 0.95) == pytest.approx(0.1)
