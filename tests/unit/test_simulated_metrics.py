"""The exposition is valid and has vLLM's names, labels and bounds."""

from __future__ import annotations

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from slm_worker.engine.metrics import parse_metrics
from slm_worker.engine.simulated.metrics import (
    E2E_BOUNDS_SECONDS,
    ITERATION_BOUNDS_TOKENS,
    ITL_BOUNDS_SECONDS,
    TTFT_BOUNDS_SECONDS,
    EngineMetrics,
    Exposition,
    Histogram,
    MetricsNames,
)
from slm_worker.engine.simulated.scheduler import Scheduler

COUNTERS = ("num_preemptions", "prompt_tokens", "generation_tokens", "request_success")
GAUGES = (
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "engine_sleep_state",
)
HISTOGRAMS = {
    "time_to_first_token_seconds": TTFT_BOUNDS_SECONDS,
    "inter_token_latency_seconds": ITL_BOUNDS_SECONDS,
    "e2e_request_latency_seconds": E2E_BOUNDS_SECONDS,
    "iteration_tokens_total": ITERATION_BOUNDS_TOKENS,
}


def families(
    metrics: EngineMetrics,
    model_name: str = "opt",
    *,
    names: MetricsNames = "today",
    asleep: bool = False,
) -> dict[str, Metric]:
    scheduler = Scheduler(max_num_seqs=1, kv_capacity_tokens=100)
    text = Exposition(model_name, names).text(metrics, scheduler, asleep=asleep)
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_names_and_kinds_are_those_of_vllm() -> None:
    kinds = {name: family.type for name, family in families(EngineMetrics()).items()}

    assert kinds == {
        **{f"vllm:{name}": "counter" for name in COUNTERS},
        **{f"vllm:{name}": "gauge" for name in GAUGES},
        **{f"vllm:{name}": "histogram" for name in HISTOGRAMS},
    }


def test_every_sample_names_model_and_engine() -> None:
    for family in families(EngineMetrics(), 'a "quoted\\ name\n').values():
        for sample in family.samples:
            assert sample.labels["model_name"] == 'a "quoted\\ name\n'
            assert sample.labels["engine"] == "0"


def test_requests_are_counted_by_how_they_ended() -> None:
    metrics = EngineMetrics()
    metrics.ended["abort"] = 2

    samples = families(metrics)["vllm:request_success"].samples
    by_reason = {sample.labels["finished_reason"]: sample.value for sample in samples}

    assert by_reason == {"stop": 0, "length": 0, "abort": 2}


def test_histograms_are_cumulative_with_sum_and_count() -> None:
    metrics = EngineMetrics()
    metrics.itl.observe(0.01, 3)  # a bound belongs to its bucket
    metrics.itl.observe(0.011, 4)
    metrics.itl.observe(100.0)

    samples = families(metrics)["vllm:inter_token_latency_seconds"].samples
    buckets = {s.labels["le"]: s.value for s in samples if s.name.endswith("_bucket")}
    others = {s.name.rpartition("_")[2]: s.value for s in samples if "le" not in s.labels}

    assert [buckets[bound] for bound in ("0.01", "0.025", "80.0", "+Inf")] == [3, 7, 7, 8]
    assert others["count"] == 8
    assert others["sum"] == 3 * 0.01 + 4 * 0.011 + 100


def test_histogram_bounds_are_those_of_vllm() -> None:
    found = families(EngineMetrics())
    for name, bounds in HISTOGRAMS.items():
        labels = [s.labels["le"] for s in found[f"vllm:{name}"].samples if "le" in s.labels]
        assert labels == [*(str(bound) for bound in bounds), "+Inf"]


def test_an_observation_beyond_all_bounds_counts() -> None:
    histogram = Histogram((1.0,))
    histogram.observe(5.0, 2)

    assert histogram.counts == [0, 2]
    assert histogram.sum == 10.0


def test_the_older_names_are_those_that_vllm_had() -> None:
    today, older = (families(EngineMetrics(), names=names) for names in ("today", "older"))

    renamed = {"vllm:gpu_cache_usage_perc", "vllm:time_per_output_token_seconds"}
    assert older.keys() - today.keys() == renamed | {"vllm:num_requests_swapped"}
    assert today.keys() - older.keys() == {
        "vllm:kv_cache_usage_perc",
        "vllm:inter_token_latency_seconds",
        "vllm:engine_sleep_state",
    }
    labels = [sample.labels for family in older.values() for sample in family.samples]
    assert not any("engine" in one for one in labels)


@pytest.mark.parametrize("names", ["today", "older"])
def test_the_agent_reads_either_names(names: MetricsNames) -> None:
    metrics = EngineMetrics(generation_tokens=7)
    metrics.itl.observe(0.02, 6)
    metrics.iterations.observe(1, 7)
    scheduler = Scheduler(max_num_seqs=1, kv_capacity_tokens=100)

    sample = parse_metrics(Exposition("opt", names).text(metrics, scheduler, asleep=False))

    assert (sample.output_tokens, sample.itl.count, sample.steps) == (7, 6, 7)


@pytest.mark.parametrize(("asleep", "state"), [(False, "awake"), (True, "weights_offloaded")])
def test_the_sleep_state_is_told(asleep: bool, state: str) -> None:
    samples = families(EngineMetrics(), asleep=asleep)["vllm:engine_sleep_state"].samples

    assert {s.labels["sleep_state"] for s in samples if s.value} == {state}
