"""What replicas on one GPU serve and draw by how many sequences run: a table of measured points.

Between measured batches throughput is linear in the logarithms of both, power in that of the batch.
Several replicas are measured at few batches: what they gain over one replica is known there, and
is held beyond. A count between measured ones lies between them by its logarithm.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from slm_operator.pareto.points import OperatingPoint

_At = Callable[[int, float], float]
_Of = Callable[[OperatingPoint], float]


class CurveError(Exception):
    """The points make no curve; the text says what is missing and the remedy."""


@dataclass(frozen=True)
class _Line:
    """One replica count: values at ascending batches."""

    batches: tuple[int, ...]
    values: tuple[float, ...]

    def at(self, batch: float) -> float:
        """Linear in the logarithm of the batch; held beyond the outermost."""
        index = bisect_left(self.batches, batch)
        if index == 0:
            return self.values[0]
        if index == len(self.batches):
            return self.values[-1]
        low, high = self.batches[index - 1], self.batches[index]
        share = math.log(batch / low) / math.log(high / low)
        return self.values[index - 1] + share * (self.values[index] - self.values[index - 1])


@dataclass(frozen=True)
class Curve:
    """Throughput in output tokens/s of all replicas together, power in watts of the GPU.

    ``points``: one for each (replicas, max_num_seqs), committed layouts, each with its power above
    idle; with at least one of a single replica. Raises CurveError.
    """

    points: tuple[OperatingPoint, ...]
    idle_watts: float

    def __post_init__(self) -> None:
        if not any(p.probe.replicas == 1 for p in self.points):
            raise CurveError("no point of one replica: a curve needs at least one")
        unknown = [p for p in self.points if p.power_watts is None]
        if unknown:
            raise CurveError(f"{unknown[0].probe} has no power: give power_mean_w for every point")
        least = min(self.points, key=_watts)
        if _watts(least) <= self.idle_watts:
            raise CurveError(
                f"{least.probe} draws {_watts(least):g} W, and the GPU {self.idle_watts:g} W when "
                "it is idle: correct power_mean_w, or name the GPU that was measured"
            )

    @property
    def layouts(self) -> list[tuple[int, int]]:
        """What was measured, as (replicas, max_num_seqs)."""
        return sorted((p.probe.replicas, p.probe.max_num_seqs) for p in self.points)

    @property
    def replica_counts(self) -> list[int]:
        return sorted({p.probe.replicas for p in self.points})

    def tokens_per_second(self, replicas: int, batch: float) -> float:
        """Of ``replicas`` >= 1 that run ``batch`` >= 1 sequences each."""
        return self._between(self._tokens_at, replicas, batch)

    def watts(self, replicas: int, batch: float) -> float:
        """Of the whole GPU while ``replicas`` >= 1 run ``batch`` >= 1 sequences each."""
        return self._between(self._watts_at, replicas, batch)

    def _between(self, at: _At, replicas: int, batch: float) -> float:
        counts = self.replica_counts
        index = bisect_left(counts, replicas)
        if index == len(counts):
            return at(counts[-1], batch)
        if counts[index] == replicas:
            return at(replicas, batch)
        low, high = counts[index - 1], counts[index]
        share = math.log(replicas / low) / math.log(high / low)
        return at(low, batch) + share * (at(high, batch) - at(low, batch))

    def _tokens_at(self, replicas: int, batch: float) -> float:
        alone = self._alone(batch)
        return alone if replicas == 1 else alone * self._gains[replicas].at(batch)

    def _alone(self, batch: float) -> float:
        smallest = self._single.batches[0]
        # Fewer sequences than ever measured: a step takes as long, since it reads the same weights.
        return math.exp(self._single.at(batch)) * min(1.0, batch / smallest)

    def _watts_at(self, replicas: int, batch: float) -> float:
        alone = self._single_watts.at(batch)
        if replicas == 1:
            return alone
        return self.idle_watts + (alone - self.idle_watts) * self._hotter[replicas].at(batch)

    @cached_property
    def _single(self) -> _Line:
        return self._line(1, lambda p: math.log(p.output_tokens_per_second))

    @cached_property
    def _single_watts(self) -> _Line:
        return self._line(1, _watts)

    @cached_property
    def _gains(self) -> Mapping[int, _Line]:
        def gain(point: OperatingPoint) -> float:
            return point.output_tokens_per_second / self._alone(point.probe.max_num_seqs)

        return {n: self._line(n, gain) for n in self.replica_counts if n > 1}

    @cached_property
    def _hotter(self) -> Mapping[int, _Line]:
        def hotter(point: OperatingPoint) -> float:
            alone = self._single_watts.at(point.probe.max_num_seqs)
            return (_watts(point) - self.idle_watts) / (alone - self.idle_watts)

        return {n: self._line(n, hotter) for n in self.replica_counts if n > 1}

    def _line(self, replicas: int, value: _Of) -> _Line:
        own = sorted(
            (p for p in self.points if p.probe.replicas == replicas),
            key=lambda p: p.probe.max_num_seqs,
        )
        return _Line(tuple(p.probe.max_num_seqs for p in own), tuple(value(p) for p in own))


def _watts(point: OperatingPoint) -> float:
    return point.power_watts or 0.0
