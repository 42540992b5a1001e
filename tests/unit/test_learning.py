"""What the first start really used replaces the estimate."""

from __future__ import annotations

import asyncio
from fractions import Fraction

import pytest

from slm_worker.gpu.base import DeviceError, DeviceIdentity, DeviceReading
from slm_worker.planning.learning import MOST_CONTEXT_BYTES, StartedReplica, learn
from slm_worker.planning.memory import GIB, ModelFootprint
from slm_worker.planning.overhead import fixed_lines
from slm_worker.replicas.planner import Settings
from slm_worker.replicas.witness import StartWitness

MODEL = ModelFootprint(weights_bytes=10 * GIB, kv_bytes_per_token=1000, max_model_len=2048)
GPU = DeviceIdentity("NVIDIA", "GPU", 80 * GIB, simulated=False)


def seen(footprint: ModelFootprint, max_num_seqs: int = 256) -> dict[str, int]:
    """What the sum takes as measured, in whole words of its lines."""
    lines = fixed_lines(footprint, GPU, max_num_seqs)
    return {line.what.split()[0]: line.size_bytes for line in lines if line.source == "measured"}


def test_before_anything_started_nothing_is_measured() -> None:
    assert seen(MODEL) == {}


def test_what_the_engine_says_replaces_its_line() -> None:
    started = StartedReplica(
        max_num_seqs=256, weights_bytes=9 * GIB, graphs_bytes=GIB // 2, activations_bytes=GIB
    )
    found = learn(MODEL, started)
    assert seen(found) == {"weights": 9 * GIB, "activations": GIB, "CUDA": GIB // 2}
    assert found.weights_bytes == 9 * GIB


def test_another_batch_keeps_the_estimate_of_what_follows_the_batch() -> None:
    started = StartedReplica(max_num_seqs=256, weights_bytes=9 * GIB, graphs_bytes=GIB // 2)
    assert seen(learn(MODEL, started), 64) == {"weights": 9 * GIB}


def test_each_batch_is_remembered() -> None:
    found = learn(MODEL, StartedReplica(max_num_seqs=256, graphs_bytes=5))
    found = learn(found, StartedReplica(max_num_seqs=512, graphs_bytes=7))
    assert seen(found, 256) == {"CUDA": 5}
    assert seen(found, 512) == {"CUDA": 7}


def test_of_several_starts_the_greatest_counts() -> None:
    for sizes in ((5, 7), (7, 5)):
        found = MODEL
        for size in sizes:
            found = learn(found, StartedReplica(max_num_seqs=256, graphs_bytes=size))
        assert seen(found) == {"CUDA": 7}


class TestHeldMemory:
    def held(self, size_bytes: int, graphs_bytes: int | None = None) -> StartedReplica:
        return StartedReplica(
            max_num_seqs=256,
            held_bytes=size_bytes,
            kv_cache_bytes=20 * GIB,
            graphs_bytes=graphs_bytes,
        )

    def test_beyond_what_is_known_is_the_context(self) -> None:
        found = learn(MODEL, self.held(32 * GIB, graphs_bytes=GIB // 2))
        assert found.measured.context_bytes == 3 * GIB // 2

    def test_of_the_first_start_counts(self) -> None:
        found = learn(learn(MODEL, self.held(31 * GIB)), self.held(33 * GIB))
        assert found.measured.context_bytes == GIB

    @pytest.mark.parametrize("size_bytes", [29 * GIB, 30 * GIB, 31 * GIB + MOST_CONTEXT_BYTES])
    def test_that_cannot_be_its_own_teaches_nothing(self, size_bytes: int) -> None:
        assert learn(MODEL, self.held(size_bytes)).measured.context_bytes is None

    def test_makes_room_where_the_estimate_was_too_large(self) -> None:
        started = self.held(30 * GIB + GIB // 10, graphs_bytes=GIB // 20)
        estimated, measured = (
            sum(line.size_bytes for line in fixed_lines(found, GPU, 256))
            for found in (MODEL, learn(MODEL, started))
        )
        assert estimated - measured > GIB


SETTINGS = Settings(256, 4 * GIB, None, Fraction(1))


class TestWitness:
    LOG = "[gpu_model_runner.py:1316] Model loading took 2.5 GiB and 3.652170 seconds"

    def watch(self, *readings: int | DeviceError | None) -> StartedReplica:
        told: list[StartedReplica] = []
        left = list(readings)

        async def read() -> DeviceReading:
            now = left.pop(0)
            if isinstance(now, DeviceError):
                raise now
            return DeviceReading(None, None, memory_used_bytes=now)

        async def start() -> None:
            witness = StartWitness(read, told.append)
            async with witness.start() as begun:
                await witness.ready(begun, SETTINGS, self.LOG)

        asyncio.run(start())
        return told[0]

    def test_tells_what_the_device_and_the_engine_say(self) -> None:
        assert self.watch(3 * GIB, 10 * GIB) == StartedReplica(
            max_num_seqs=256,
            held_bytes=7 * GIB,
            weights_bytes=5 * GIB // 2,
            kv_cache_bytes=4 * GIB,
        )

    async def test_of_starts_at_the_same_time_nobody_can_tell_whose_memory_it_is(self) -> None:
        told: list[StartedReplica] = []

        async def read() -> DeviceReading:
            return DeviceReading(None, None, memory_used_bytes=GIB)

        witness = StartWitness(read, told.append)
        async with witness.start() as early:
            async with witness.start() as late:
                await witness.ready(late, SETTINGS, self.LOG)
            await witness.ready(early, SETTINGS, self.LOG)
        assert told == []
        async with witness.start() as alone:
            await witness.ready(alone, SETTINGS, self.LOG)
        assert len(told) == 1

    @pytest.mark.parametrize(
        "readings", [(None, GIB), (GIB, None), (DeviceError("lost"), GIB), (GIB, DeviceError(""))]
    )
    def test_says_nothing_of_a_device_that_does_not_answer(
        self, readings: tuple[int | DeviceError | None, ...]
    ) -> None:
        assert self.watch(*readings).held_bytes is None
