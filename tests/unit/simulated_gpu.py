"""Builders: a simulated GPU of 100 bytes with an even pace, in a time of its own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from slm_worker.gpu.simulated.state import WARM_UP_STEPS, Pace, SimulatedGpu

IDLE_WATTS = 70.0


class FakeClock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass
class FlatPace:
    """Each active replica takes 10 ms more for a step; the power does not depend on it."""

    watts: float = 200.0

    def step_seconds(self, batches: Sequence[int], own: int) -> float:
        assert batches[own] >= 1
        return 0.01 * len(batches)

    def active_watts(self, batches: Sequence[int]) -> float:
        assert batches
        return self.watts


def gpu(clock: FakeClock | None = None, rng: random.Random | None = None) -> SimulatedGpu:
    return SimulatedGpu(
        memory_bytes=100,
        idle_watts=IDLE_WATTS,
        clock=clock or FakeClock(),
        rng=rng or random.Random(0),
    )


FLAT = FlatPace()


def attach(
    device: SimulatedGpu, number: int, *, memory_bytes: int = 10, pace: Pace = FLAT
) -> float:
    """Engine ``number`` is process 1000 + ``number``."""
    return device.attach(number, 1000 + number, pace, memory_bytes)


def warmed_up(device: SimulatedGpu, *numbers: int) -> None:
    """Attaches engines that have their first steps behind them, and pause."""
    for number in numbers:
        attach(device, number)
        for _ in range(WARM_UP_STEPS):
            device.step(number, 1)
        device.step(number, 0)
