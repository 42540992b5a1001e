"""PURE: how fast replicas run and what the GPU draws, interpolated between measurements.

The measurements (``data/README.md``) are whole-run figures of n replicas with b running sequences
each. Measured points are reproduced exactly; between them throughput and power are interpolated:

- over b: throughput linear in log(b) and log(throughput), power linear in log(b);
- over n: both linear in log(n);
- for n > 1 outside the batch sizes measured with it, the ratio to one replica is held;
- one replica beyond its largest batch, and more replicas than measured, keep the total throughput.
  Power of more replicas goes on along the last slope, up to the board's limit.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

IDLE_WATTS = 132.0
"""Contexts resident, nothing running: the trace named in ``data/README.md``."""
MAX_WATTS = 700.0
"""Board limit of an H100 SXM."""


@dataclass(frozen=True)
class Point:
    """One measured run: total output tokens/s, and watts of the whole GPU."""

    tokens_per_second: float
    watts: float


@dataclass(frozen=True)
class Curves:
    """``points[n][b]``: the run of n replicas with b sequences each; n = 1 must be there."""

    points: Mapping[int, Mapping[int, Point]]

    def tokens_per_second(self, replicas: int, batch: float) -> float:
        """Total output tokens/s of ``replicas`` >= 1 that run ``batch`` >= 1 sequences each."""
        _check(replicas, batch)
        below, above, share = self._bracket(replicas)
        low = self._throughput(below, batch)
        return low + share * (self._throughput(above, batch) - low)

    def watts(self, replicas: int, batch: float) -> float:
        """Power of the GPU; ``replicas`` 0 means that nobody runs."""
        if replicas == 0:
            return IDLE_WATTS
        _check(replicas, batch)
        below, above, share = self._bracket(replicas)
        low, high = self._power(below, batch), self._power(above, batch)
        last = sorted(self.points)[-2:]
        if replicas > last[-1]:
            low, high = (self._power(n, batch) for n in last)
            share = math.log(replicas / last[0]) / math.log(last[-1] / last[0])
        return min(MAX_WATTS, max(IDLE_WATTS, low + share * (high - low)))

    def step_seconds(self, batches: Sequence[int], own: int) -> float:
        """Time of one step of the replica at index ``own``.

        ``batches``: the running sequences of every active replica, each >= 1. A replica runs as
        fast as if all of them had its own batch size.
        """
        batch = batches[own]
        return len(batches) * batch / self.tokens_per_second(len(batches), batch)

    def active_watts(self, batches: Sequence[int]) -> float:
        """Power with these active replicas: that of their mean batch size, idle without any."""
        return self.watts(len(batches), sum(batches) / len(batches) if batches else 0)

    def _bracket(self, replicas: int) -> tuple[int, int, float]:
        """The measured replica counts around ``replicas``, and where it lies between them."""
        measured = sorted(self.points)
        if replicas >= measured[-1]:
            return measured[-1], measured[-1], 0.0
        above = next(n for n in measured if n > replicas)
        below = max(n for n in measured if n <= replicas)
        return below, above, math.log(replicas / below) / math.log(above / below)

    def _throughput(self, replicas: int, batch: float) -> float:
        row = {b: point.tokens_per_second for b, point in self.points[replicas].items()}
        inside = min(max(batch, min(row)), max(row))
        logs = {b: math.log(value) for b, value in row.items()}
        value = math.exp(_between(logs, inside)) if inside not in row else row[int(inside)]
        if replicas == 1 or inside == batch:
            return value
        return value * self._throughput(1, batch) / self._throughput(1, inside)

    def _power(self, replicas: int, batch: float) -> float:
        row = {b: point.watts for b, point in self.points[replicas].items()}
        inside = min(max(batch, min(row)), max(row))
        value = _between(row, inside)
        if replicas == 1 or inside == batch:
            return value
        return value * self._power(1, batch) / self._power(1, inside)


def _check(replicas: int, batch: float) -> None:
    if replicas < 1 or batch < 1:
        raise ValueError(f"{replicas} replicas with {batch} sequences: both must be at least 1")


def _between(row: Mapping[int, float], batch: float) -> float:
    """Linear in log(batch) between the two neighbours; ``batch`` lies within the row."""
    below = max(b for b in row if b <= batch)
    if below == batch:
        return row[below]
    above = min(b for b in row if b > batch)
    share = math.log(batch / below) / math.log(above / below)
    return row[below] + share * (row[above] - row[below])


@cache
def opt_1_3b_on_h100() -> Curves:
    """The measurements that come with this package.

    Where a point was measured twice (they differ by less than 2 % in throughput), the run of the
    replication study counts.
    """
    table = resources.files("slm_worker.gpu") / "data" / "opt-1.3b-h100.csv"
    rows = list(csv.DictReader(table.read_text(encoding="ascii").splitlines()))
    points: dict[int, dict[int, Point]] = {}
    for row in sorted(rows, key=lambda row: row["kind"], reverse=True):  # replication comes last
        point = Point(float(row["output_tok_s"]), float(row["power_mean_w"]))
        points.setdefault(int(row["replicas"]), {})[int(row["max_num_seqs"])] = point
    return Curves(points)
