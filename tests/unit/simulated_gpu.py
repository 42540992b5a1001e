"""Builders: a simulated GPU of 100 bytes with an even pace, in a time of its own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from slm_worker.gpu.simulated.state import WARM_UP_STEPS, Pace, SimulatedGpu

IDLE_WATTS = 70.0
CONFIGS: dict[str, dict[str, object]] = {
    "opt-1.3b": {
        "model_type": "opt",
        "num_hidden_layers": 24,
        "hidden_size": 2048,
        "num_attention_heads": 32,
        "ffn_dim": 8192,
        "vocab_size": 50272,
        "max_position_embeddings": 2048,
    },
    "llama-2-7b": {
        "model_type": "llama",
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "intermediate_size": 11008,
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
    "unmeasured-1b": {
        "model_type": "llama",
        "num_hidden_layers": 16,
        "hidden_size": 2048,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 8192,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
}
"""What their config.json says, as far as it decides their size."""


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
