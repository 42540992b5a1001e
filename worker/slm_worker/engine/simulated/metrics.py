"""PURE: the simulated engine's counters in vLLM's names, labels and bucket bounds.

Names and bounds are those of vLLM's v1 engine (vllm/v1/metrics/loggers.py). The older names are
those of the engine before it, which had no engine label either.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

from slm_worker.engine.simulated.scheduler import Scheduler

FinishReason = Literal["stop", "length", "abort"]
MetricsNames = Literal["today", "older"]

_KV_NAMES = {"today": "kv_cache_usage_perc", "older": "gpu_cache_usage_perc"}
_ITL_NAMES = {"today": "inter_token_latency_seconds", "older": "time_per_output_token_seconds"}

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
ITERATION_BOUNDS_TOKENS = (
    1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0,
)
# fmt: on


class Histogram:
    """``bounds``: ascending upper bounds, each inclusive."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


def _histogram_of(bounds: tuple[float, ...]) -> Callable[[], Histogram]:
    return lambda: Histogram(bounds)


@dataclass
class EngineMetrics:
    """Cumulative since the engine began; latencies in seconds."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    ended: dict[FinishReason, int] = field(
        default_factory=lambda: {"stop": 0, "length": 0, "abort": 0}
    )
    ttft: Histogram = field(default_factory=_histogram_of(TTFT_BOUNDS_SECONDS))
    itl: Histogram = field(default_factory=_histogram_of(ITL_BOUNDS_SECONDS))
    e2e: Histogram = field(default_factory=_histogram_of(E2E_BOUNDS_SECONDS))
    iterations: Histogram = field(default_factory=_histogram_of(ITERATION_BOUNDS_TOKENS))
    """Tokens written in each step."""


@dataclass(frozen=True)
class Exposition:
    """How one engine names its counters: ``names`` as vLLM has them today, or had them."""

    model_name: str
    names: MetricsNames = "today"

    def text(self, metrics: EngineMetrics, scheduler: Scheduler, *, asleep: bool) -> str:
        """What Prometheus reads."""
        labels = self._labels()
        lines = []
        for kind, name, text, value in self._plain(metrics, scheduler):
            lines += _head(name, kind, text)
            lines.append(f"vllm:{name}{{{labels}}} {float(value)}")
        lines += _head("request_success_total", "counter", "Requests by how they ended.")
        for reason, count in metrics.ended.items():
            lines.append(
                f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} {float(count)}'
            )
        if self.names == "today":
            lines += _head("engine_sleep_state", "gauge", "1 for the state that it is in.")
            for state, value in (
                ("awake", not asleep),
                ("weights_offloaded", asleep),
                ("discard_all", False),
            ):
                lines.append(
                    f'vllm:engine_sleep_state{{{labels},sleep_state="{state}"}} {float(value)}'
                )
        itl_name = _ITL_NAMES[self.names]
        for name, text, histogram in (
            ("time_to_first_token_seconds", "Arrival to first token.", metrics.ttft),
            (itl_name, "Token to next token.", metrics.itl),
            ("e2e_request_latency_seconds", "Arrival to last token.", metrics.e2e),
            ("iteration_tokens_total", "Tokens of a step.", metrics.iterations),
        ):
            lines += _head(name, "histogram", text)
            lines += _histogram(name, labels, histogram)
        return "\n".join(lines) + "\n"

    def _labels(self) -> str:
        escaped = self.model_name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        engine = 'engine="0",' if self.names == "today" else ""
        return f'{engine}model_name="{escaped}"'

    def _plain(
        self, metrics: EngineMetrics, scheduler: Scheduler
    ) -> list[tuple[str, str, str, float]]:
        plain: list[tuple[str, str, str, float]] = [
            ("gauge", "num_requests_running", "Requests in the batch.", scheduler.running),
            ("gauge", "num_requests_waiting", "Requests that wait for a slot.", scheduler.waiting),
            ("gauge", _KV_NAMES[self.names], "KV cache in use, 1 is all.", scheduler.kv_usage),
            ("counter", "num_preemptions_total", "Preempted sequences.", scheduler.preemptions),
            ("counter", "prompt_tokens_total", "Prompt tokens read.", metrics.prompt_tokens),
            ("counter", "generation_tokens_total", "Tokens written.", metrics.generation_tokens),
        ]
        if self.names == "older":  # it could move sequences to the host; this engine recomputes
            plain.append(("gauge", "num_requests_swapped", "Requests moved to the host.", 0))
        return plain


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP vllm:{name} {text} (simulated)", f"# TYPE vllm:{name} {kind}"]


def _histogram(name: str, labels: str, histogram: Histogram) -> list[str]:
    cumulative = list(accumulate(histogram.counts))
    bounds = [str(bound) for bound in histogram.bounds] + ["+Inf"]
    lines = [
        f'vllm:{name}_bucket{{{labels},le="{bound}"}} {float(count)}'
        for bound, count in zip(bounds, cumulative, strict=True)
    ]
    lines.append(f"vllm:{name}_count{{{labels}}} {float(cumulative[-1])}")
    lines.append(f"vllm:{name}_sum{{{labels}}} {histogram.sum}")
    return lines
