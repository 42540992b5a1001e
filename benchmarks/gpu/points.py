"""PURE: which layouts a sweep measures, in which order, and what a window says of one."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from slm_operator.pareto.points import Probe
from slm_worker.wire import Counters, Histogram

MICROJOULES = 1000
"""In a millijoule."""


@dataclass(frozen=True, order=True)
class Point:
    replicas: int
    """In rotation: those that requests are sent to."""
    max_num_seqs: int
    layout_replicas: int
    """Started; more than are in rotation is how the operator searches, without a restart."""

    def __str__(self) -> str:
        name = f"{self.replicas}x{self.max_num_seqs}"
        return name if self.replicas == self.layout_replicas else f"{name}of{self.layout_replicas}"

    @property
    def probe(self) -> Probe:
        return Probe(self.layout_replicas, self.replicas, self.max_num_seqs)

    @classmethod
    def parse(cls, text: str) -> Point:
        """``2x256``: two replicas of 256 sequences; ``2x256of4``: two in rotation of four that are
        started. Raises ValueError."""
        found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)(?:of([1-9]\d*))?", text)
        if found is None:
            raise ValueError(f"point {text!r}: write REPLICASxSEQUENCES, such as 2x256")
        replicas, max_num_seqs = int(found[1]), int(found[2])
        layout_replicas = int(found[3] or replicas)
        if layout_replicas < replicas:
            raise ValueError(f"point {text!r}: {replicas} in rotation of {layout_replicas} started")
        return cls(replicas, max_num_seqs, layout_replicas)


DEFAULT_POINTS = tuple(map(Point.parse, ("1x256", "1x96", "1x512", "2x256", "3x256", "4x256")))
"""One replica at three batch sizes, since packing has to beat its best, then more replicas."""


def schedule(points: Sequence[Point], rounds: int) -> tuple[Point, ...]:
    """Every round goes through the points, each second one backwards, and the first point comes
    again at the end of all: its windows tell a drift of the machine from a gain. Points that repeat
    one already are taken as they are."""
    if len(set(points)) < len(points):
        return tuple(points) * rounds
    order: list[Point] = []
    for number in range(rounds):
        order += points if number % 2 == 0 else reversed(points)
    if order[-1] != points[0]:
        order.append(points[0])
    return tuple(order)


@dataclass(frozen=True)
class Window:
    """What one point did between two samples of the agent. None: nobody can measure it here."""

    seconds: float
    tokens_per_second: float
    requests_per_second: float
    watts: float | None
    microjoules_per_output_token: float | None
    ttft_p50_seconds: float | None
    ttft_p95_seconds: float | None
    itl_p50_seconds: float | None
    itl_p95_seconds: float | None
    saturated_fraction: float
    preemptions: int
    spoilt: str
    """Why it is no measurement; empty where it is one."""


LEAST_SATURATED = 0.95
"""As in the operator's own windows."""


def window(before: Counters, after: Counters) -> Window:
    """Differences of the agent's cumulative counters. Raises ValueError for no time at all."""
    seconds = after.sampled_at_seconds - before.sampled_at_seconds
    if seconds <= 0:
        raise ValueError(f"a window of {seconds} s: take the second sample after the first")
    tokens = after.output_tokens - before.output_tokens
    saturated = (after.saturated_seconds - before.saturated_seconds) / seconds
    millijoules = None
    if before.energy_millijoules is not None and after.energy_millijoules is not None:
        millijoules = after.energy_millijoules - before.energy_millijoules
    ttft, itl = _between(before.ttft, after.ttft), _between(before.itl, after.itl)
    return Window(
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        requests_per_second=(after.requests_completed - before.requests_completed) / seconds,
        watts=None if millijoules is None else millijoules / 1000 / seconds,
        microjoules_per_output_token=(
            None if millijoules is None or not tokens else MICROJOULES * millijoules / tokens
        ),
        ttft_p50_seconds=quantile(ttft, 0.5),
        ttft_p95_seconds=quantile(ttft, 0.95),
        itl_p50_seconds=quantile(itl, 0.5),
        itl_p95_seconds=quantile(itl, 0.95),
        saturated_fraction=saturated,
        preemptions=after.preemptions - before.preemptions,
        spoilt=_spoilt(before, after, tokens, saturated),
    )


def quantile(histogram: Histogram, share: float) -> float | None:
    """Within its bucket by straight line; None without observations, infinite past the last."""
    if not histogram.count:
        return None
    wanted, below, low = share * histogram.count, 0, 0.0
    for bound, cumulative in zip(histogram.bounds_seconds, histogram.cumulative, strict=True):
        if cumulative >= wanted:
            inside = cumulative - below
            return low + (bound - low) * ((wanted - below) / inside if inside else 1.0)
        below, low = cumulative, bound
    return math.inf


def _between(before: Histogram, after: Histogram) -> Histogram:
    earlier = before.cumulative or (0,) * len(after.cumulative)
    return Histogram(
        bounds_seconds=after.bounds_seconds,
        cumulative=tuple(late - soon for soon, late in zip(earlier, after.cumulative, strict=True)),
        count=after.count - before.count,
        sum_seconds=after.sum_seconds - before.sum_seconds,
    )


def _spoilt(before: Counters, after: Counters, tokens: int, saturated: float) -> str:
    if after.replica_starts != before.replica_starts:
        return "a replica was started"
    if after.missed_samples != before.missed_samples:
        return "a replica missed a sample"
    if tokens <= 0:
        return "no token was written"
    if saturated < LEAST_SATURATED:
        return f"only {saturated:.0%} of the window was saturated"
    return ""
