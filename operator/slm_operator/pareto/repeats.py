"""Several measurements of one operating point as one, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, variance

from slm_operator.pareto.noise import student_t
from slm_operator.pareto.points import OperatingPoint, Probe

PRIOR_FREEDOM = 3
"""Three configurations of the published H100 measurements were run twice."""
PRIOR_THROUGHPUT_SPREAD = 0.0056
PRIOR_ENERGY_SPREAD = 0.0233
"""Standard deviation of those runs, as a share of their mean (OPT-1.3B, one replica with 96, 256
and 768 sequences: ``worker/slm_worker/planning/data``)."""
POOLED_SECONDS = 600.0
"""Windows of one probe are pooled up to this length; what is older fades."""


@dataclass(frozen=True)
class Spread:
    """Standard deviation of one run as a share of its mean, and how well it is known."""

    share: float
    freedom: int

    def half_width(self, runs: int) -> float:
        """Of the 95 % confidence interval of the mean of ``runs``, as a share of it."""
        return student_t(0.975, self.freedom) * self.share / math.sqrt(runs)


def pooled(points: Sequence[OperatingPoint]) -> list[OperatingPoint]:
    """One point for each probe, the mean of its runs; unchanged where nothing was repeated.

    How much repeats differ tells how noisy every run is, those without a repeat too. All repeats
    are looked at together, with the published ones as a prior (a variance moderated as in Smyth,
    Statistical Applications in Genetics and Molecular Biology 3 (2004), article 3), since two runs
    that happen to agree are no proof of precision.
    """
    groups: dict[Probe, list[OperatingPoint]] = {}
    for point in points:
        groups.setdefault(point.probe, []).append(point)
    repeated = [group for group in groups.values() if len(group) > 1]
    if not repeated:
        return list(points)
    throughput = _spread(
        [[p.output_tokens_per_second for p in group] for group in repeated],
        PRIOR_THROUGHPUT_SPREAD,
    )
    energy = _spread(
        [[j for p in group if (j := p.joules_per_output_token) is not None] for group in repeated],
        PRIOR_ENERGY_SPREAD,
    )
    return [_mean(group, throughput, energy) for group in groups.values()]


def with_window(held: OperatingPoint, window: OperatingPoint) -> OperatingPoint:
    """A probe after a further ``window`` of it: both, weighted by their lengths."""
    kept_seconds = min(held.window_seconds, max(0.0, POOLED_SECONDS - window.window_seconds))
    seconds = kept_seconds + window.window_seconds
    share = kept_seconds / seconds if seconds > 0 else 0.5

    def mean(old: float | None, new: float | None) -> float | None:
        if old is None or new is None:
            return new
        return share * old + (1 - share) * new

    tokens = share * held.output_tokens_per_second + (1 - share) * window.output_tokens_per_second
    confidence = math.hypot(
        share * held.confidence_tokens_per_second,
        (1 - share) * window.confidence_tokens_per_second,
    )
    return replace(
        window,
        output_tokens_per_second=tokens,
        confidence_tokens_per_second=confidence,
        power_watts=mean(held.power_watts, window.power_watts),
        ttft_p95_seconds=mean(held.ttft_p95_seconds, window.ttft_p95_seconds),
        itl_p95_seconds=mean(held.itl_p95_seconds, window.itl_p95_seconds),
        preemptions_per_request=mean(held.preemptions_per_request, window.preemptions_per_request),
        window_seconds=seconds,
        runs=held.runs + window.runs,
    )


def _spread(groups: Sequence[Sequence[float]], prior: float) -> Spread:
    squares, freedom = PRIOR_FREEDOM * prior**2, PRIOR_FREEDOM
    for values in groups:
        if len(values) > 1:
            squares += (len(values) - 1) * variance(values) / fmean(values) ** 2
            freedom += len(values) - 1
    return Spread(math.sqrt(squares / freedom), freedom)


def _mean(group: Sequence[OperatingPoint], throughput: Spread, energy: Spread) -> OperatingPoint:
    tokens = fmean(p.output_tokens_per_second for p in group)
    return replace(
        group[-1],
        output_tokens_per_second=tokens,
        confidence_tokens_per_second=tokens * throughput.half_width(len(group)),
        power_watts=_mean_known([p.power_watts for p in group]),
        itl_p99_seconds=_mean_known([p.itl_p99_seconds for p in group]),
        preemptions_per_request=_mean_known([p.preemptions_per_request for p in group]),
        energy_confidence=energy.half_width(len(group)),
        runs=len(group),
    )


def _mean_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
