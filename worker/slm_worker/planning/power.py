"""PURE: what a GPU draws: idle power, and a part of the rest for each thing that it does."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from slm_worker.planning.batch_run import Totals
from slm_worker.planning.steps import Constants, Rates


@dataclass(frozen=True)
class Activity:
    """What a GPU does on average, all replicas together; each is a share of its utmost."""

    busy: float
    """Of the time, in which a kernel runs."""
    weight_reads: float
    """Of the peak bandwidth, as the next."""
    kv_reads: float
    arithmetic: float
    """Of the peak FLOP/s."""
    crowding: float
    """How much of the replicas' time on the GPU is waiting for each other; 0 for one alone."""


def activity_of(totals: Totals, replicas: int, rates: Rates) -> Activity:
    """Of ``replicas`` that each did ``totals`` in the same time."""
    share = replicas / totals.seconds
    return Activity(
        busy=min(1.0, totals.gpu_seconds * share),
        weight_reads=totals.weight_bytes * share / rates.bytes_per_second,
        kv_reads=totals.kv_bytes * share / rates.bytes_per_second,
        arithmetic=totals.flops * share / rates.flops_per_second,
        crowding=max(0.0, 1 - totals.gpu_seconds / totals.on_gpu_seconds),
    )


def power_watts(
    activity: Activity, constants: Constants, *, idle_watts: float, max_watts: float
) -> float:
    """Never above the board's limit."""
    parts = zip(astuple(activity), power_constants(constants), strict=True)
    above_idle: float = sum(share * power for share, power in parts)
    return min(max_watts, idle_watts + (max_watts - idle_watts) * above_idle)


def power_constants(constants: Constants) -> tuple[float, float, float, float, float]:
    """In the order of an activity's fields."""
    return (
        constants.busy_power,
        constants.weight_power,
        constants.kv_power,
        constants.compute_power,
        constants.crowd_power,
    )
