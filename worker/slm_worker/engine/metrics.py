"""PURE: reads the families that the agent needs from an engine's Prometheus text.

Values are summed over label sets (an engine with several cores has one set for each). vLLM renamed
some families; both names are read, and the newer counts where a release has both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from slm_worker.wire import Histogram

NO_OBSERVATIONS = Histogram()

_PREFIX = "vllm:"
_TTFT = ("time_to_first_token_seconds",)
_ITL = ("inter_token_latency_seconds", "time_per_output_token_seconds")
_UNFINISHED = ('finished_reason="abort"', 'finished_reason="error"')
_LE = re.compile(r'[{,]le="([^"]+)"')


class MetricsError(Exception):
    """The text is no engine's metrics; the message names what is missing or wrong."""


@dataclass(frozen=True)
class EngineSample:
    """One reading of one engine process: counters since its start, and gauges."""

    output_tokens: int = 0
    prompt_tokens: int = 0
    requests_completed: int = 0
    """Without those that were aborted."""
    preemptions: int = 0
    ttft: Histogram = NO_OBSERVATIONS
    itl: Histogram = NO_OBSERVATIONS
    steps: int = 0
    """Engine steps where the engine counts them; moves during a long prefill too."""
    running: int = 0
    waiting: int = 0


def parse_metrics(text: str) -> EngineSample:
    """Raises MetricsError when a family that every engine has is missing or no number."""
    families = _Families(text)
    return EngineSample(
        output_tokens=families.required("generation_tokens_total"),
        prompt_tokens=families.required("prompt_tokens_total"),
        requests_completed=families.required("request_success_total"),
        preemptions=families.optional("num_preemptions_total"),
        ttft=families.histogram(_TTFT),
        itl=families.histogram(_ITL),
        steps=families.optional("iteration_tokens_total_count"),
        running=families.required("num_requests_running"),
        waiting=families.required("num_requests_waiting"),
    )


class _Families:
    def __init__(self, text: str) -> None:
        self._values: dict[str, float] = {}
        self._buckets: dict[str, dict[float, float]] = {}
        for line in text.splitlines():
            if not line.startswith(_PREFIX):
                continue
            head, _, number = line.rpartition(" ")
            name, _, labels = head[len(_PREFIX) :].partition("{")
            try:
                self._add(name, labels, float(number))
            except ValueError:
                raise MetricsError(f"no number in the metrics line {line[:200]!r}") from None

    def _add(self, name: str, labels: str, value: float) -> None:
        if name.endswith("_bucket"):
            bound = _LE.search("," + labels)
            if bound is None:
                raise MetricsError(f"bucket {name} has no le label")
            buckets = self._buckets.setdefault(name.removesuffix("_bucket"), {})
            key = float(bound.group(1))
            buckets[key] = buckets.get(key, 0.0) + value
        elif name == "request_success_total" and any(reason in labels for reason in _UNFINISHED):
            self._values.setdefault(name, 0.0)
        else:
            self._values[name] = self._values.get(name, 0.0) + value

    def required(self, name: str) -> int:
        if name not in self._values:
            raise MetricsError(
                f"the engine's /metrics lacks {_PREFIX}{name}: "
                "is --disable-log-stats set, or is this no vLLM server?"
            )
        return int(self._values[name])

    def optional(self, name: str) -> int:
        return int(self._values.get(name, 0.0))

    def histogram(self, names: Iterable[str]) -> Histogram:
        for name in names:
            if name in self._buckets:
                return self._histogram(name, self._buckets[name])
        return NO_OBSERVATIONS

    def _histogram(self, name: str, buckets: Mapping[float, float]) -> Histogram:
        bounds = sorted(bound for bound in buckets if bound != float("inf"))
        return Histogram(
            bounds_seconds=tuple(bounds),
            cumulative=tuple(int(buckets[bound]) for bound in bounds),
            count=self.optional(f"{name}_count"),
            sum_seconds=self._values.get(f"{name}_sum", 0.0),
        )


def increase(before: EngineSample, after: EngineSample) -> EngineSample:
    """What ``after`` counts beyond ``before``, with the gauges of ``after``.

    A counter that went back means that the process began anew: then all of ``after`` is new.
    """
    if not _continues(before, after):
        return after
    return EngineSample(
        output_tokens=after.output_tokens - before.output_tokens,
        prompt_tokens=after.prompt_tokens - before.prompt_tokens,
        requests_completed=after.requests_completed - before.requests_completed,
        preemptions=after.preemptions - before.preemptions,
        ttft=_subtract(after.ttft, before.ttft),
        itl=_subtract(after.itl, before.itl),
        steps=after.steps - before.steps,
        running=after.running,
        waiting=after.waiting,
    )


def merge(one: Histogram, other: Histogram) -> Histogram:
    """Both histograms' observations. Bounds that only one has are given up: what remains is exact.

    An empty histogram takes the other's bounds.
    """
    if not other.count:
        return one
    if not one.count:
        return other
    of_one = dict(zip(one.bounds_seconds, one.cumulative, strict=True))
    of_other = dict(zip(other.bounds_seconds, other.cumulative, strict=True))
    bounds = sorted(of_one.keys() & of_other.keys())
    return Histogram(
        bounds_seconds=tuple(bounds),
        cumulative=tuple(of_one[bound] + of_other[bound] for bound in bounds),
        count=one.count + other.count,
        sum_seconds=one.sum_seconds + other.sum_seconds,
    )


def _continues(before: EngineSample, after: EngineSample) -> bool:
    return (
        after.output_tokens >= before.output_tokens
        and after.prompt_tokens >= before.prompt_tokens
        and after.requests_completed >= before.requests_completed
        and after.preemptions >= before.preemptions
        and after.steps >= before.steps
        and _histogram_continues(before.ttft, after.ttft)
        and _histogram_continues(before.itl, after.itl)
    )


def _histogram_continues(before: Histogram, after: Histogram) -> bool:
    return (
        after.count >= before.count
        and (after.bounds_seconds == before.bounds_seconds or not before.count)
        and all(new >= old for old, new in zip(before.cumulative, after.cumulative, strict=False))
    )


def _subtract(after: Histogram, before: Histogram) -> Histogram:
    if not before.count:
        return after
    return Histogram(
        bounds_seconds=after.bounds_seconds,
        cumulative=tuple(
            new - old for new, old in zip(after.cumulative, before.cumulative, strict=True)
        ),
        count=after.count - before.count,
        sum_seconds=after.sum_seconds - before.sum_seconds,
    )
