"""PURE: between measured points: how far off the model is at each, carried to where none is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Figures = tuple[float, ...]
"""Of one layout, such as throughput and power."""
Ratios = tuple[float, ...]
"""Measured over modelled, of each figure."""


@dataclass(frozen=True)
class Anchors:
    """Points that were measured, as (replicas, batch); at least one. ``ratios_at`` answers for
    these alone."""

    points: frozenset[tuple[int, int]]
    ratios_at: Callable[[int, int], Ratios]

    def ratios(self, replicas: int, batch: float) -> Ratios:
        """Of a measured count, or beyond all of them of the outermost: linear in the logarithm of
        the batch; beyond the outermost batch its own are held."""
        count, _ = _around({n for n, _ in self.points}, replicas)
        below, above = _around(self._batches(count), batch)
        low, high = self.ratios_at(count, below), self.ratios_at(count, above)
        return _mixed(low, high, _share(below, above, batch))

    def enclose(self, replicas: int, batch: float) -> bool:
        """Whether the point lies between measured ones, in batch and in replicas."""
        counts = {n for n, _ in self.points}
        if not min(counts) <= replicas <= max(counts):
            return False
        return all(
            min(self._batches(n)) <= batch <= max(self._batches(n))
            for n in _around(counts, replicas)
        )

    def between(self, replicas: int, at: Callable[[int], Figures]) -> Figures | None:
        """Between two measured counts: what ``at`` gives for both, linear in the logarithm of the
        count. A correction alone, carried from one to the other, made three replicas faster than
        four, which a full KV cache had held back. None elsewhere."""
        counts = {n for n, _ in self.points}
        if replicas in counts or not min(counts) < replicas < max(counts):
            return None
        below, above = _around(counts, replicas)
        return _mixed(at(below), at(above), _share(below, above, replicas))

    def _batches(self, replicas: int) -> set[int]:
        return {b for n, b in self.points if n == replicas}


def _around(known: Iterable[int], value: float) -> tuple[int, int]:
    ordered = sorted(known)
    below = max((k for k in ordered if k <= value), default=ordered[0])
    above = min((k for k in ordered if k >= value), default=ordered[-1])
    return below, above


def _share(below: float, above: float, value: float) -> float:
    return 0.0 if below == above else math.log(value / below) / math.log(above / below)


def _mixed(low: Ratios, high: Ratios, share: float) -> Ratios:
    return tuple(a + share * (b - a) for a, b in zip(low, high, strict=True))
