"""The engine's heartbeat keeps to the wall clock and counts what it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from slm_worker.engine.simulated.loop import MAX_BACKLOG_SECONDS, EngineLoop
from slm_worker.engine.simulated.metrics import EngineMetrics
from slm_worker.engine.simulated.scheduler import Scheduler
from slm_worker.gpu.base import DeviceError
from slm_worker.gpu.simulated.state import Step

STEP_SECONDS = 0.01
STALL_SECONDS = 0.5


class World:
    """Clock, sleep and GPU in one: sleeping moves the clock, and may overshoot."""

    def __init__(self) -> None:
        self.now = 50.0
        self.overshoot_seconds = 0.0
        self.batches: list[int] = []
        self.broken = False
        self.stalls = 0
        self.kv_share = 1.0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds + self.overshoot_seconds
        self.overshoot_seconds = 0.0
        await asyncio.sleep(0)

    async def step(self, running: int) -> Step:
        if self.broken:
            raise DeviceError("gone")
        await asyncio.sleep(0)
        if running and self.stalls:
            self.stalls -= 1
            return Step(STALL_SECONDS, stalled=True)
        self.batches.append(running)
        return Step(STEP_SECONDS if running else 0.0, kv_share=self.kv_share)


class Engine:
    def __init__(self) -> None:
        self.world = World()
        self.scheduler = Scheduler(max_num_seqs=2, kv_capacity_tokens=10**6)
        self.metrics = EngineMetrics()
        self.loop = EngineLoop(
            self.scheduler,
            self.metrics,
            step=self.world.step,
            clock=self.world.clock,
            sleep=self.world.sleep,
        )
        self.task = asyncio.create_task(self.loop.run())


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine()
    yield engine
    engine.task.cancel()
    await asyncio.gather(engine.task, return_exceptions=True)


async def test_a_generation_takes_its_steps_and_is_counted(engine: Engine) -> None:
    began = engine.world.now
    generation = engine.loop.submit(7, 5, "length")
    await generation.finished.wait()

    assert engine.world.now - began == pytest.approx(5 * STEP_SECONDS)
    assert engine.loop.written(generation) == 5
    metrics = engine.metrics
    assert (metrics.prompt_tokens, metrics.generation_tokens) == (7, 5)
    assert metrics.ended == {"stop": 0, "length": 1, "abort": 0}
    assert sum(metrics.ttft.counts) == 1
    assert metrics.ttft.sum == pytest.approx(STEP_SECONDS)
    assert sum(metrics.itl.counts) == 4
    assert metrics.itl.sum == pytest.approx(4 * STEP_SECONDS)
    assert metrics.iterations.counts[0] == 5, "steps of one token"
    assert metrics.e2e.sum == pytest.approx(5 * STEP_SECONDS)


async def test_an_idle_engine_tells_the_gpu_so_and_can_start_again(engine: Engine) -> None:
    await engine.loop.submit(7, 2, "length").finished.wait()
    await engine.loop.drained()
    assert engine.world.batches == [1, 1, 0]

    await engine.loop.submit(7, 1, "stop").finished.wait()
    await engine.loop.drained()
    assert engine.world.batches == [1, 1, 0, 1, 0]


async def test_a_late_step_is_made_up_for(engine: Engine) -> None:
    began = engine.world.now
    engine.world.overshoot_seconds = 0.03
    await engine.loop.submit(7, 10, "length").finished.wait()

    assert engine.world.now - began == pytest.approx(10 * STEP_SECONDS)


async def test_a_long_stall_is_not_made_up_for_entirely(engine: Engine) -> None:
    began = engine.world.now
    engine.world.overshoot_seconds = 100.0
    await engine.loop.submit(7, 1000, "length").finished.wait()

    made_up = 1000 * STEP_SECONDS - (engine.world.now - began - 100)
    assert made_up == pytest.approx(MAX_BACKLOG_SECONDS, abs=2 * STEP_SECONDS)


async def test_an_aborted_generation_frees_its_slot_and_counts_as_aborted(engine: Engine) -> None:
    first = engine.loop.submit(7, 1000, "length")
    await first.first_token.wait()
    engine.loop.abort(first)
    engine.loop.abort(first)
    await engine.loop.drained()

    assert engine.metrics.ended["abort"] == 1
    assert engine.scheduler.running == 0
    assert not first.finished.is_set()


async def test_a_finished_generation_cannot_be_aborted(engine: Engine) -> None:
    generation = engine.loop.submit(7, 1, "length")
    await generation.finished.wait()
    engine.loop.abort(generation)

    assert engine.metrics.ended == {"stop": 0, "length": 1, "abort": 0}


async def test_a_lost_gpu_ends_the_heartbeat(engine: Engine) -> None:
    engine.world.broken = True
    engine.loop.submit(7, 1, "length")

    with pytest.raises(DeviceError, match="gone"):
        await engine.task


async def test_a_stall_writes_no_token_and_is_not_made_up_for(engine: Engine) -> None:
    began = engine.world.now
    engine.world.stalls = 3
    await engine.loop.submit(7, 5, "length").finished.wait()

    assert engine.world.now - began == pytest.approx(3 * STALL_SECONDS + 5 * STEP_SECONDS)
    assert engine.metrics.generation_tokens == 5


async def test_a_smaller_kv_cache_preempts(engine: Engine) -> None:
    engine.world.kv_share = 1e-5  # of a million: ten tokens
    generations = [engine.loop.submit(7, 5, "length") for _ in range(2)]
    for generation in generations:
        await generation.finished.wait()

    assert engine.scheduler.preemptions == 1
