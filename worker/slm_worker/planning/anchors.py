"""PURE: between measured points: how far off the model is at each, carried to where none is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Ratios = tuple[float, ...]
"""Measured over modelled, of one figure after the other."""


@dataclass(frozen=True)
class Anchors:
    """Points that were measured, as (replicas, batch); at least one. ``ratios_at`` answers for
    these alone."""

    points: frozenset[tuple[int, int]]
    ratios_at: Callable[[int, int], Ratios]

    def ratios(self, replicas: int, batch: float) -> Ratios:
        """Linear in the logarithms of batch, then of replicas; beyond the outermost point its own
        are held."""
        below, above = _around({n for n, _ in self.points}, replicas)
        low, high = self._of_count(below, batch), self._of_count(above, batch)
        return _mixed(low, high, _share(below, above, replicas))

    def enclose(self, replicas: int, batch: float) -> bool:
        """Whether the point lies between measured ones, in batch and in replicas."""
        counts = {n for n, _ in self.points}
        if not min(counts) <= replicas <= max(counts):
            return False
        return all(
            min(self._batches(n)) <= batch <= max(self._batches(n))
            for n in _around(counts, replicas)
        )

    def _batches(self, replicas: int) -> set[int]:
        return {b for n, b in self.points if n == replicas}

    def _of_count(self, replicas: int, batch: float) -> Ratios:
        below, above = _around(self._batches(replicas), batch)
        low, high = self.ratios_at(replicas, below), self.ratios_at(replicas, above)
        return _mixed(low, high, _share(below, above, batch))


def _around(known: Iterable[int], value: float) -> tuple[int, int]:
    ordered = sorted(known)
    below = max((k for k in ordered if k <= value), default=ordered[0])
    above = min((k for k in ordered if k >= value), default=ordered[-1])
    return below, above


def _share(below: float, above: float, value: float) -> float:
    return 0.0 if below == above else math.log(value / below) / math.log(above / below)


def _mixed(low: Ratios, high: Ratios, share: float) -> Ratios:
    return tuple(a + share * (b - a) for a, b in zip(low, high, strict=True))
