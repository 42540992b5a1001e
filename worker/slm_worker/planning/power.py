"""PURE: what a GPU draws: idle power, and a part of the rest for each thing that it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slm_worker.planning.steps import Constants, Rates


@dataclass(frozen=True)
class Activity:
    """What a GPU does in a second on average, all replicas together, as shares of its peaks."""

    busy: float
    """Share of the time in which a kernel runs."""
    weight_reads: float
    kv_reads: float
    arithmetic: float

    @classmethod
    def of(
        cls,
        rates: Rates,
        seconds: float,
        *,
        gpu_seconds: float,
        weight_bytes: float,
        kv_bytes: float,
        flops: float,
    ) -> Activity:
        return cls(
            busy=min(1.0, gpu_seconds / seconds),
            weight_reads=weight_bytes / seconds / rates.bytes_per_second,
            kv_reads=kv_bytes / seconds / rates.bytes_per_second,
            arithmetic=flops / seconds / rates.flops_per_second,
        )

    @property
    def shares(self) -> Sequence[float]:
        return self.busy, self.weight_reads, self.kv_reads, self.arithmetic


def power_watts(
    activity: Activity, constants: Constants, *, idle_watts: float, max_watts: float
) -> float:
    """Never above the board's limit."""
    above_idle = (
        constants.busy_power * activity.busy
        + constants.weight_power * activity.weight_reads
        + constants.kv_power * activity.kv_reads
        + constants.compute_power * activity.arithmetic
    )
    return min(max_watts, idle_watts + (max_watts - idle_watts) * above_idle)
