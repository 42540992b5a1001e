"""From cumulative counters to a measurement: which stretch of samples is a valid window.

A window is valid when no counter was reset and no replica was (re)started in it, every sample was
answered, every replica in rotation was full with requests waiting throughout, its sequences were
of mixed ages, hardly a request of the load failed, nothing but the power limit held the clocks
down, and it is long enough for its confidence interval. Anything else is no measurement, and says
why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from slm_operator.pareto.confidence import half_width, mean_lengths, quantile
from slm_worker.wire import Counters, LoadState

MIN_POWER_SHARE = 0.8
"""Part of a window that energy readings have to span to stand for it."""


@dataclass(frozen=True)
class WindowRules:
    """When a window counts. Lengths in seconds, shares as fractions of one."""

    min_seconds: float = 30.0
    max_seconds: float = 120.0
    """After this a noisy window is taken with the confidence that it has."""
    warmup_seconds: float = 6.0
    """Discarded after the pack has settled: caches warm, clocks rise. It lasts until as many
    requests have completed as ran at once: a batch that was filled in one go is all young
    sequences, whose short contexts serve up to half as much again (recorded: OPT-1.3B, 4 x 256)."""
    interval_width: float = 0.03
    """Widest confidence interval (full width, as a share of the mean) that ends a window early."""
    min_saturated: float = 0.95
    """A finished sequence is replaced between two samples now and then; more is missing load."""
    max_throttled: float = 0.05
    """Share of the time in which heat or the board may hold the clocks down: one sample of many,
    when the load begins, changes no mean."""
    max_failed: float = 0.01
    """Share of the load's requests that may fail: those that an engine refuses are mostly the long
    ones, so what is left is other traffic than was asked for."""
    batches: int = 10

    @property
    def pause_seconds(self) -> float:
        """Without load for longer at a stretch, a batch drains, and what follows is a new start."""
        return (1 - self.min_saturated) * self.min_seconds


@dataclass(frozen=True)
class Sample:
    """One poll of an agent, as far as measuring needs it."""

    agent_id: str
    settled_since_seconds: float
    counters: Counters
    running: int = 0
    """Sequences in the batches of the replicas in rotation."""
    load: LoadState = field(default_factory=LoadState)
    """The operator's own load, which sends nothing while users are measured."""


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
    prompt_tokens: float | None
    """Mean of the requests that were served; None when none was completed."""
    output_tokens: float | None
    power_capped_fraction: float
    """Share of the window in which the power limit held the clocks down."""
    preemptions_per_request: float | None
    """None while no request was completed."""


def evaluate(samples: Sequence[Sample], rules: WindowRules) -> Measuring | Measurement:
    """Judges the newest unbroken stretch of ``samples`` (ascending in time, of one probe)."""
    if not samples:
        return Measuring("Settling", "the pack is not yet what is to be measured", 0.0)
    stretch, broken = _unbroken(samples)
    warm_from = stretch[-1].settled_since_seconds + rules.warmup_seconds
    warm = [s for s in stretch if s.counters.sampled_at_seconds >= warm_from]
    full = _since_saturated(stretch, rules.pause_seconds)
    if not full:
        if len(warm) >= 2 and _seconds(_counted(warm)) >= rules.min_seconds:
            return Measuring(
                "NotSaturated",
                f"in the last {_seconds(_counted(warm)):.0f} s the replicas in rotation were not "
                "full with requests waiting: only a saturated window measures capacity",
                0.0,
            )
        return broken or Measuring("WarmingUp", "batches are filling up", 0.0)
    mixed = _since_turnover(full)
    if isinstance(mixed, Measuring):
        return broken if broken and len(full) < 2 else mixed
    window = [s for s in mixed if s.counters.sampled_at_seconds >= warm_from]
    if len(window) < 2:
        return broken or Measuring("WarmingUp", "batches are filling up", 0.0)
    return _judge(window, rules)


def _judge(samples: Sequence[Sample], rules: WindowRules) -> Measuring | Measurement:
    window = _counted(samples)
    elapsed = _seconds(window)
    if elapsed < rules.min_seconds:
        return Measuring("Measuring", f"{elapsed:.0f} of {rules.min_seconds:.0f} s", elapsed)
    if _spoiled(samples, rules):
        newest = [s for s in samples if _age(window, s.counters) <= rules.min_seconds]
        spoiled = _spoiled(newest, rules)
        if spoiled is not None:
            return spoiled
        recent = _counted(newest)
        if _seconds(recent) < 0.9 * rules.min_seconds:
            return Measuring("Measuring", "polls came too rarely", _seconds(recent))
        window, elapsed = recent, _seconds(recent)
    measurement = _measure(window, elapsed, rules.batches)
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


def _spoiled(samples: Sequence[Sample], rules: WindowRules) -> Measuring | None:
    """What keeps the window from standing for the pack's capacity."""
    window = _counted(samples)
    elapsed = _seconds(window)
    saturated = _saturated_fraction(window)
    if saturated < rules.min_saturated:
        return Measuring(
            "NotSaturated",
            f"{saturated:.0%} of the last {elapsed:.0f} s were saturated, "
            f"{rules.min_saturated:.0%} are needed: only a saturated window measures capacity",
            elapsed,
        )
    throttled = (window[-1].throttled_seconds - window[0].throttled_seconds) / elapsed
    if throttled > rules.max_throttled:
        return Measuring(
            "Throttled",
            f"heat or the board held the clocks down for {throttled:.0%} of the last "
            f"{elapsed:.0f} s, {rules.max_throttled:.0%} are allowed: see to the node's cooling "
            "and power",
            elapsed,
        )
    failed = _failed_fraction(samples[0].load, samples[-1].load)
    if failed > rules.max_failed:
        return Measuring(
            "LoadFails",
            f"{failed:.0%} of the load's requests of the last {elapsed:.0f} s failed, "
            f"{rules.max_failed:.0%} are allowed: the rest is other traffic than was asked for",
            elapsed,
        )
    return None


def _failed_fraction(first: LoadState, last: LoadState) -> float:
    """Of what ended in between, without what found no room: that says nothing of the lengths."""
    failed = (last.failed - last.turned_away) - (first.failed - first.turned_away)
    ended = failed + last.completed - first.completed
    return failed / ended if ended > 0 else 0.0


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


def _since_saturated(samples: Sequence[Sample], pause_seconds: float) -> list[Sample]:
    """The samples since saturation began, or began anew after a pause; none while it pauses."""
    start: int | None = None
    paused = 0.0
    for index, (old, new) in enumerate(pairwise(_counted(samples))):
        gained = new.saturated_seconds - old.saturated_seconds
        lost = new.sampled_at_seconds - old.sampled_at_seconds - gained
        paused = paused + lost if lost > 0.01 * (gained + lost) else 0.0
        if paused > pause_seconds:
            start = None
        elif paused == 0.0 and start is None:
            start = index
    return [] if start is None else list(samples[start:])


def _since_turnover(samples: Sequence[Sample]) -> list[Sample] | Measuring:
    """The samples since as many requests have completed as ever ran at once since the first."""
    first, most = samples[0].counters.requests_completed, 0
    for index, sample in enumerate(samples):
        most = max(most, sample.running)
        if most and sample.counters.requests_completed - first >= most:
            return list(samples[index:])
    if not most:  # an agent that does not tell what runs
        return list(samples)
    done = samples[-1].counters.requests_completed - first
    return Measuring(
        "WarmingUp", f"{done} of the {most} sequences that began together have been replaced", 0.0
    )


def _counted(samples: Sequence[Sample]) -> list[Counters]:
    return [s.counters for s in samples]


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


def _measure(window: Sequence[Counters], elapsed: float, batches: int) -> Measurement:
    first, last = window[0], window[-1]
    lengths = mean_lengths(first, last)
    capped = last.power_capped_seconds - first.power_capped_seconds
    return Measurement(
        output_tokens_per_second=(last.output_tokens - first.output_tokens) / elapsed,
        confidence_tokens_per_second=half_width(window, batches),
        power_watts=_power(window, elapsed),
        ttft_p95_seconds=quantile(first.ttft, last.ttft, 0.95),
        itl_p95_seconds=quantile(first.itl, last.itl, 0.95),
        window_seconds=elapsed,
        saturated_fraction=_saturated_fraction(window),
        prompt_tokens=lengths[0] if lengths else None,
        output_tokens=lengths[1] if lengths else None,
        power_capped_fraction=capped / elapsed,
        preemptions_per_request=(last.preemptions - first.preemptions) / completed
        if (completed := last.requests_completed - first.requests_completed) > 0
        else None,
    )


def _power(window: Sequence[Counters], elapsed: float) -> float | None:
    """Mean power between the first and the last reading: a reading that was missed at an edge is no
    reason to call power unknown, unless most of the window is without."""
    read = [c for c in window if c.energy_millijoules is not None]
    if len(read) < 2 or _seconds(read) < MIN_POWER_SHARE * elapsed:
        return None
    millijoules = (read[-1].energy_millijoules or 0) - (read[0].energy_millijoules or 0)
    return millijoules / 1000 / _seconds(read)
