"""From an engine's metrics text to the pack's cumulative counters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_worker.engine.metrics import EngineSample, MetricsError, merge, parse_metrics
from slm_worker.measure import EngineReading, Meter, Moment, ProcessKey
from slm_worker.wire import Histogram

OLD_NAMES = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="a}b c"} 3.0
vllm:num_requests_waiting{model_name="a}b c"} 2.0
vllm:gpu_cache_usage_perc{model_name="a}b c"} 0.5
vllm:prompt_tokens_total{model_name="a}b c"} 1.5e+03
vllm:generation_tokens_total{model_name="a}b c"} 700.0
vllm:request_success_total{finished_reason="stop",model_name="a}b c"} 4.0
vllm:request_success_total{finished_reason="length",model_name="a}b c"} 5.0
vllm:request_success_total{finished_reason="abort",model_name="a}b c"} 9.0
vllm:time_to_first_token_seconds_bucket{le="0.1",model_name="a}b c"} 6.0
vllm:time_to_first_token_seconds_bucket{le="1.0",model_name="a}b c"} 8.0
vllm:time_to_first_token_seconds_bucket{le="+Inf",model_name="a}b c"} 9.0
vllm:time_to_first_token_seconds_count{model_name="a}b c"} 9.0
vllm:time_to_first_token_seconds_sum{model_name="a}b c"} 4.5
vllm:time_per_output_token_seconds_bucket{le="0.01",model_name="a}b c"} 600.0
vllm:time_per_output_token_seconds_bucket{le="+Inf",model_name="a}b c"} 691.0
vllm:time_per_output_token_seconds_count{model_name="a}b c"} 691.0
vllm:time_per_output_token_seconds_sum{model_name="a}b c"} 7.0
process_cpu_seconds_total 12.5
"""
NEW_ITL = """\
vllm:inter_token_latency_seconds_bucket{le="0.02"} 10.0
vllm:inter_token_latency_seconds_bucket{le="+Inf"} 10.0
vllm:inter_token_latency_seconds_count 10.0
vllm:inter_token_latency_seconds_sum 0.1
"""


FIXTURES = Path(__file__).parents[1] / "fixtures"


def test_a_real_servers_text_is_read() -> None:
    sample = parse_metrics((FIXTURES / "vllm-0.32-cpu-metrics.txt").read_text())
    assert sample.output_tokens > 0 and sample.prompt_tokens > 0 and sample.steps > 0
    assert sample.requests_completed == sample.ttft.count > 0
    # The first token of each request is no inter-token latency.
    assert sample.itl.count == sample.output_tokens - sample.ttft.count
    for histogram in (sample.ttft, sample.itl):
        assert list(histogram.cumulative) == sorted(histogram.cumulative)
        assert histogram.cumulative[-1] <= histogram.count
        assert histogram.sum_seconds > 0


def test_old_names_are_read() -> None:
    assert parse_metrics(OLD_NAMES) == EngineSample(
        output_tokens=700,
        prompt_tokens=1500,
        requests_completed=9,
        ttft=Histogram(bounds_seconds=(0.1, 1.0), cumulative=(6, 8), count=9, sum_seconds=4.5),
        itl=Histogram(bounds_seconds=(0.01,), cumulative=(600,), count=691, sum_seconds=7.0),
        running=3,
        waiting=2,
    )


def test_where_a_release_has_both_names_the_newer_counts() -> None:
    assert parse_metrics(OLD_NAMES + NEW_ITL).itl.count == 10


def test_label_sets_are_summed() -> None:
    second = OLD_NAMES.replace('model_name="a}b c"', 'engine="1"')
    both = parse_metrics(OLD_NAMES + second)
    assert (both.output_tokens, both.running, both.ttft.cumulative) == (1400, 6, (12, 16))


def test_a_missing_family_is_an_error_not_a_zero() -> None:
    text = "\n".join(
        line for line in OLD_NAMES.splitlines() if "generation_tokens_total" not in line
    )
    with pytest.raises(MetricsError, match="lacks vllm:generation_tokens_total"):
        parse_metrics(text)


def test_a_torn_line_is_an_error() -> None:
    with pytest.raises(MetricsError, match="no number"):
        parse_metrics(OLD_NAMES + "vllm:num_preemptions_total{engine=\n")


def test_histograms_merge_by_the_bounds_they_share() -> None:
    one = Histogram(bounds_seconds=(0.1, 0.5, 1.0), cumulative=(1, 2, 3), count=4, sum_seconds=2)
    other = Histogram(bounds_seconds=(0.1, 1.0), cumulative=(10, 20), count=30, sum_seconds=5)
    assert merge(one, other) == Histogram(
        bounds_seconds=(0.1, 1.0), cumulative=(11, 23), count=34, sum_seconds=7
    )
    assert merge(Histogram(), one) == one == merge(one, Histogram())


def reading(
    tokens: int | None = 0, *, running: int = 0, waiting: int = 0, rotation: bool = True
) -> EngineReading:
    sample = None
    if tokens is not None:
        latencies = Histogram(bounds_seconds=(0.1,), cumulative=(tokens,), count=tokens)
        sample = EngineSample(output_tokens=tokens, itl=latencies, running=running, waiting=waiting)
    return EngineReading(sample, in_rotation=rotation, max_num_seqs=8)


def moment(
    at: float,
    engines: dict[ProcessKey, EngineReading] | None = None,
    *,
    queue: int = 0,
    energy: int | None = None,
) -> Moment:
    return Moment(at, engines or {}, queue, energy, replica_starts=len(engines or {}))


def test_processes_that_come_and_go_only_ever_add() -> None:
    meter = Meter()
    assert meter.record(moment(0, {(0, 1): reading(5)})).output_tokens == 5
    both = {(0, 1): reading(20), (1, 1): reading(7)}
    assert meter.record(moment(1, both)).output_tokens == 27
    assert meter.record(moment(2, {(1, 1): reading(9)})).output_tokens == 29
    anew = meter.record(moment(3, {(0, 2): reading(4), (1, 1): reading(9)}))
    assert anew.output_tokens == 33
    assert anew.itl.count == anew.itl.cumulative[0] == 33


def test_a_counter_that_jumps_back_adds_from_zero() -> None:
    meter = Meter()
    meter.record(moment(0, {(0, 1): reading(100)}))
    assert meter.record(moment(1, {(0, 1): reading(3)})).output_tokens == 103


def test_a_miss_in_rotation_counts_and_loses_no_tokens() -> None:
    meter = Meter()
    meter.record(moment(0, {(0, 1): reading(100)}))
    missed = meter.record(moment(1, {(0, 1): reading(None), (1, 1): reading(None, rotation=False)}))
    assert (missed.output_tokens, missed.missed_samples) == (100, 1)
    later = meter.record(moment(2, {(0, 1): reading(150), (1, 1): reading(None, rotation=False)}))
    assert (later.output_tokens, later.missed_samples) == (150, 1)


def test_energy_counts_from_the_first_reading_and_never_falls() -> None:
    meter = Meter()
    readings = [None, 1000, 1500, None, 2500, 100, 150]
    energies = [
        meter.record(moment(at, energy=energy)).energy_millijoules
        for at, energy in enumerate(readings)
    ]
    assert energies == [None, 0, 500, None, 1500, 1500, 1550]


@pytest.mark.parametrize(
    ("engines", "queue", "expected"),
    [
        ([reading(waiting=1), reading(waiting=2)], 0, True),
        ([reading(waiting=1), reading(waiting=0)], 0, False),
        ([reading(running=8)], 1, True),
        ([reading(running=8)], 0, False),
        ([reading(running=7)], 5, False),
        ([reading(None), reading(waiting=1)], 5, False),
        ([reading(waiting=1), reading(rotation=False)], 0, True),
        ([], 5, False),
    ],
    ids=[
        "all wait",
        "one is not full",
        "full with a queue at the router",
        "full, nobody waits",
        "a queue, but room",
        "unknown is not saturated",
        "outside the rotation does not matter",
        "nobody in rotation",
    ],
)
def test_saturated_time(engines: list[EngineReading], queue: int, expected: bool) -> None:
    by_key = {(index, 1): engine for index, engine in enumerate(engines)}
    meter = Meter()
    meter.record(moment(10.0, by_key, queue=queue))
    counters = meter.record(moment(12.5, by_key, queue=queue))
    assert counters.saturated_seconds == (2.5 if expected else 0.0)


def test_saturated_time_needs_two_samples_in_a_row() -> None:
    meter = Meter()
    full, room = {(0, 1): reading(waiting=1)}, {(0, 1): reading()}
    for at, engines in enumerate([full, room, full, full, room]):
        counters = meter.record(moment(float(at), engines))
    assert counters.saturated_seconds == 1.0


@given(st.lists(st.dictionaries(st.integers(0, 2), st.none() | st.integers(0, 1000))))
def test_counters_never_fall(samples: list[dict[int, int | None]]) -> None:
    meter = Meter()
    before = meter.record(moment(-1.0))
    for at, tokens in enumerate(samples):
        engines = {(index, 1): reading(count) for index, count in tokens.items()}
        after = meter.record(moment(float(at), engines))
        assert after.output_tokens >= before.output_tokens
        assert after.itl.count >= before.itl.count
        grown = zip(before.itl.cumulative, after.itl.cumulative, strict=False)
        assert all(new >= old for old, new in grown)
        before = after


def test_time_at_lowered_clocks_is_counted_by_cause() -> None:
    meter = Meter()
    meter.record(replace(moment(10), throttled=True))
    hot = meter.record(replace(moment(12), throttled=True, power_capped=True))
    assert (hot.throttled_seconds, hot.power_capped_seconds) == (2.0, 2.0)
    cool = meter.record(moment(15))
    assert (cool.throttled_seconds, cool.power_capped_seconds) == (2.0, 2.0)
