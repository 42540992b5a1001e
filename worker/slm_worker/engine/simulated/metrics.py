"""PURE: the simulated engine's counters in vLLM's names, labels and bucket bounds.

Names and bounds are those of vLLM's v1 engine (vllm/v1/metrics/loggers.py).
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

from slm_worker.engine.simulated.scheduler import Scheduler

FinishReason = Literal["stop", "length", "abort"]

# fmt: off
TTFT_BOUNDS_SECONDS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)
ITL_BOUNDS_SECONDS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
)
E2E_BOUNDS_SECONDS = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
)
# fmt: on


class LatencyHistogram:
    """``bounds``: ascending upper bounds in seconds, each inclusive."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum_seconds = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += times
        self.sum_seconds += seconds * times


@dataclass
class EngineMetrics:
    """Cumulative since the engine began."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    ended: dict[FinishReason, int] = field(
        default_factory=lambda: {"stop": 0, "length": 0, "abort": 0}
    )
    ttft: LatencyHistogram = field(default_factory=lambda: LatencyHistogram(TTFT_BOUNDS_SECONDS))
    itl: LatencyHistogram = field(default_factory=lambda: LatencyHistogram(ITL_BOUNDS_SECONDS))
    e2e: LatencyHistogram = field(default_factory=lambda: LatencyHistogram(E2E_BOUNDS_SECONDS))


def exposition(metrics: EngineMetrics, scheduler: Scheduler, model_name: str) -> str:
    """The text that Prometheus reads."""
    escaped = model_name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    labels = f'engine="0",model_name="{escaped}"'
    plain: list[tuple[str, str, str, float]] = [
        ("gauge", "num_requests_running", "Requests in the batch.", scheduler.running),
        ("gauge", "num_requests_waiting", "Requests that wait for a slot.", scheduler.waiting),
        ("gauge", "kv_cache_usage_perc", "KV cache in use, 1 is all.", scheduler.kv_usage),
        ("counter", "num_preemptions_total", "Preempted sequences.", scheduler.preemptions),
        ("counter", "prompt_tokens_total", "Prompt tokens read.", metrics.prompt_tokens),
        ("counter", "generation_tokens_total", "Tokens written.", metrics.generation_tokens),
    ]
    lines = []
    for kind, name, text, value in plain:
        lines += _head(name, kind, text)
        lines.append(f"vllm:{name}{{{labels}}} {float(value)}")
    lines += _head("request_success_total", "counter", "Requests by how they ended.")
    for reason, count in metrics.ended.items():
        lines.append(
            f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} {float(count)}'
        )
    for name, text, histogram in (
        ("time_to_first_token_seconds", "Arrival to first token.", metrics.ttft),
        ("inter_token_latency_seconds", "Token to next token.", metrics.itl),
        ("e2e_request_latency_seconds", "Arrival to last token.", metrics.e2e),
    ):
        lines += _head(name, "histogram", text)
        lines += _histogram(name, labels, histogram)
    return "\n".join(lines) + "\n"


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP vllm:{name} {text} (simulated)", f"# TYPE vllm:{name} {kind}"]


def _histogram(name: str, labels: str, histogram: LatencyHistogram) -> list[str]:
    cumulative = list(accumulate(histogram.counts))
    bounds = [str(bound) for bound in histogram.bounds] + ["+Inf"]
    lines = [
        f'vllm:{name}_bucket{{{labels},le="{bound}"}} {float(count)}'
        for bound, count in zip(bounds, cumulative, strict=True)
    ]
    lines.append(f"vllm:{name}_count{{{labels}}} {float(cumulative[-1])}")
    lines.append(f"vllm:{name}_sum{{{labels}}} {histogram.sum_seconds}")
    return lines
