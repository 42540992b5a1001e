"""From cumulative counters to a measurement: which stretch of samples is a valid window.

A window is valid when no counter was reset and no replica was (re)started in it, every sample was
answered, every replica in rotation was full with requests waiting throughout, and it is long
enough for its confidence interval. Anything else is no measurement, and says why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, stdev

from slm_worker.wire import Counters, Histogram

T_QUANTILES = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160),
    *(2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056),
    *(2.052, 2.048, 2.045, 2.042),
)
"""97.5 % quantiles of Student's t for 1 to 30 degrees of freedom (any statistics textbook)."""


MIN_POWER_SHARE = 0.8
"""Part of a window that energy readings have to span to stand for it."""


@dataclass(frozen=True)
class WindowRules:
    """When a window counts. Lengths in seconds, shares as fractions of one."""

    min_seconds: float = 30.0
    max_seconds: float = 120.0
    """After this a noisy window is taken with the confidence that it has."""
    warmup_seconds: float = 6.0
    """Discarded after the pack has settled: batches fill, caches warm, clocks rise."""
    interval_width: float = 0.03
    """Widest confidence interval (full width, as a share of the mean) that ends a window early."""
    min_saturated: float = 0.95
    """A finished sequence is replaced between two samples now and then; more is missing load."""
    batches: int = 10


@dataclass(frozen=True)
class Sample:
    """One poll of an agent, as far as measuring needs it."""

    agent_id: str
    settled_since_seconds: float
    counters: Counters


@dataclass(frozen=True)
class Measuring:
    """Not a measurement yet. ``reason`` is a CamelCase word, ``message`` names the numbers."""

    reason: str
    message: str
    elapsed_seconds: float


@dataclass(frozen=True)
class Measurement:
    output_tokens_per_second: float
    confidence_tokens_per_second: float
    power_watts: float | None
    ttft_p95_seconds: float | None
    itl_p95_seconds: float | None
    window_seconds: float
    saturated_fraction: float


def evaluate(samples: Sequence[Sample], rules: WindowRules) -> Measuring | Measurement:
    """Judges the newest unbroken stretch of ``samples`` (ascending in time, of one probe)."""
    if not samples:
        return Measuring("Settling", "the pack is not yet what is to be measured", 0.0)
    stretch, broken = _unbroken(samples)
    warm_from = stretch[-1].settled_since_seconds + rules.warmup_seconds
    warm = [s.counters for s in stretch if s.counters.sampled_at_seconds >= warm_from]
    window = _from_first_saturated(warm)
    if len(window) < 2:
        if len(warm) >= 2 and _seconds(warm) >= rules.min_seconds:
            return Measuring(
                "NotSaturated",
                f"no moment of the last {_seconds(warm):.0f} s had every replica in rotation full "
                "with requests waiting: only a saturated window measures capacity",
                0.0,
            )
        return broken or Measuring("WarmingUp", "batches are filling up", 0.0)
    elapsed = _seconds(window)
    if elapsed < rules.min_seconds:
        return Measuring("Measuring", f"{elapsed:.0f} of {rules.min_seconds:.0f} s", elapsed)
    saturated = (window[-1].saturated_seconds - window[0].saturated_seconds) / elapsed
    if saturated < rules.min_saturated:
        recent = _from_first_saturated([c for c in window if _age(window, c) <= rules.min_seconds])
        saturated = _saturated_fraction(recent)
        if saturated < rules.min_saturated or _seconds(recent) < 0.9 * rules.min_seconds:
            return Measuring(
                "NotSaturated",
                f"{saturated:.0%} of the last {_seconds(recent):.0f} s were saturated, "
                f"{rules.min_saturated:.0%} are needed: only a saturated window measures capacity",
                elapsed,
            )
        window, elapsed = recent, _seconds(recent)
    measurement = _measure(window, elapsed, saturated, rules.batches)
    width = 2 * measurement.confidence_tokens_per_second
    if width > rules.interval_width * measurement.output_tokens_per_second and (
        elapsed < rules.max_seconds
    ):
        mean = max(measurement.output_tokens_per_second, 1e-9)
        return Measuring(
            "Measuring",
            f"{elapsed:.0f} s, the confidence interval is {width / mean:.1%} wide, "
            f"{rules.interval_width:.1%} wanted",
            elapsed,
        )
    return measurement


def quantile(before: Histogram, after: Histogram, share: float) -> float | None:
    """The ``share`` quantile in seconds of what was observed between two cumulative histograms.

    Linear inside a bucket, as Prometheus does; an observation above the last bound counts as that
    bound. None when nothing was observed.
    """
    total = after.count - before.count
    if total <= 0 or not after.bounds_seconds:
        return None
    earlier = before.cumulative or (0,) * len(after.cumulative)
    rank = share * total
    low_bound, low_count = 0.0, 0
    for bound, now, then in zip(after.bounds_seconds, after.cumulative, earlier, strict=True):
        count = now - then
        if count >= rank:
            inside = count - low_count
            part = (rank - low_count) / inside if inside else 1.0
            return low_bound + (bound - low_bound) * part
        low_bound, low_count = bound, count
    return low_bound


def _unbroken(samples: Sequence[Sample]) -> tuple[list[Sample], Measuring | None]:
    """The samples since the last break, and what broke them."""
    start, broken = 0, None
    for index, (old, new) in enumerate(pairwise(samples), start=1):
        reason = _break_between(old, new)
        if reason:
            start, broken = index, reason
    return list(samples[start:]), broken


def _break_between(old: Sample, new: Sample) -> Measuring | None:
    a, b = old.counters, new.counters
    if old.agent_id != new.agent_id or b.output_tokens < a.output_tokens:
        return Measuring("CounterReset", "the agent restarted and counts from zero again", 0.0)
    if b.replica_starts != a.replica_starts:
        return Measuring("ReplicaRestarted", "a replica was started inside the window", 0.0)
    if b.missed_samples != a.missed_samples:
        return Measuring("MetricsMissing", "a replica in rotation did not answer a sample", 0.0)
    return None


def _from_first_saturated(counters: Sequence[Counters]) -> list[Counters]:
    for index, (old, new) in enumerate(pairwise(counters)):
        if _saturated_fraction((old, new)) >= 0.99:
            return list(counters[index:])
    return []


def _seconds(counters: Sequence[Counters]) -> float:
    return (
        counters[-1].sampled_at_seconds - counters[0].sampled_at_seconds if len(counters) else 0.0
    )


def _age(window: Sequence[Counters], counters: Counters) -> float:
    return window[-1].sampled_at_seconds - counters.sampled_at_seconds


def _saturated_fraction(counters: Sequence[Counters]) -> float:
    seconds = _seconds(counters)
    if seconds <= 0:
        return 0.0
    return (counters[-1].saturated_seconds - counters[0].saturated_seconds) / seconds


def _measure(
    window: Sequence[Counters], elapsed: float, saturated: float, batches: int
) -> Measurement:
    first, last = window[0], window[-1]
    rate = (last.output_tokens - first.output_tokens) / elapsed
    return Measurement(
        output_tokens_per_second=rate,
        confidence_tokens_per_second=_half_width(window, batches),
        power_watts=_power(window, elapsed),
        ttft_p95_seconds=quantile(first.ttft, last.ttft, 0.95),
        itl_p95_seconds=quantile(first.itl, last.itl, 0.95),
        window_seconds=elapsed,
        saturated_fraction=saturated,
    )


def _power(window: Sequence[Counters], elapsed: float) -> float | None:
    """Mean power between the first and the last reading: a reading that was missed at an edge is no
    reason to call power unknown, unless most of the window is without."""
    read = [c for c in window if c.energy_millijoules is not None]
    if len(read) < 2 or _seconds(read) < MIN_POWER_SHARE * elapsed:
        return None
    millijoules = (read[-1].energy_millijoules or 0) - (read[0].energy_millijoules or 0)
    return millijoules / 1000 / _seconds(read)


def _half_width(window: Sequence[Counters], batches: int) -> float:
    """Half width of the 95 % interval by batch means: equal stretches of time are one sample each.

    Consecutive seconds of one engine are correlated, batches of several seconds hardly are.
    """
    count = max(2, min(batches, len(window) - 1))
    start, seconds = window[0].sampled_at_seconds, _seconds(window)
    edges = [_tokens_at(window, start + seconds * i / count) for i in range(count + 1)]
    rates = [(b - a) * count / seconds for a, b in pairwise(edges)]
    if fmean(rates) <= 0:
        return 0.0
    return T_QUANTILES[count - 2] * stdev(rates) / math.sqrt(count)


def _tokens_at(window: Sequence[Counters], at_seconds: float) -> float:
    for old, new in pairwise(window):
        if new.sampled_at_seconds >= at_seconds:
            length = new.sampled_at_seconds - old.sampled_at_seconds
            part = (at_seconds - old.sampled_at_seconds) / length if length > 0 else 1.0
            return old.output_tokens + part * (new.output_tokens - old.output_tokens)
    return float(window[-1].output_tokens)
