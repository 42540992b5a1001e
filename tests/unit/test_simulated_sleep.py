"""Sleep mode: what runs ends, what comes waits, memory goes and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from slm_worker.engine.simulated.loop import EngineLoop
from slm_worker.engine.simulated.metrics import EngineMetrics
from slm_worker.engine.simulated.scheduler import Scheduler
from slm_worker.engine.simulated.sleep import HOST_COPY_BYTES_PER_SECOND, Memory, SleepMode
from slm_worker.gpu.simulated.client import DeviceRefusedError
from slm_worker.gpu.simulated.state import Step

MEMORY = Memory(
    weights_bytes=int(HOST_COPY_BYTES_PER_SECOND), kv_bytes=5 * 10**9, runtime_bytes=10**9
)


class Device:
    """Its clock, its memory and its steps; ``log`` tells in which order things happened."""

    def __init__(self) -> None:
        self.now = 0.0
        self.held_bytes = MEMORY.awake_bytes
        self.free_bytes = 0
        self.log: list[str] = []

    async def step(self, running: int) -> Step:
        await asyncio.sleep(0)
        self.log.append(f"step {running}")
        return Step(0.01 if running else 0.0)

    async def wait(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)

    async def resize(self, memory_bytes: int) -> None:
        if memory_bytes > self.held_bytes + self.free_bytes:
            raise DeviceRefusedError("OutOfMemory", "not so much is free")
        self.free_bytes += self.held_bytes - memory_bytes
        self.held_bytes = memory_bytes
        self.log.append(f"hold {memory_bytes}")


class Engine:
    def __init__(self) -> None:
        self.device = Device()
        self.metrics = EngineMetrics()
        self.loop = EngineLoop(
            Scheduler(max_num_seqs=8, kv_capacity_tokens=10**6),
            self.metrics,
            step=self.device.step,
            clock=lambda: self.device.now,
            sleep=self.device.wait,
        )
        self.mode = SleepMode(self.loop, MEMORY, resize=self.device.resize, wait=self.device.wait)
        self.task = asyncio.create_task(self.loop.run())


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine()
    yield engine
    engine.task.cancel()
    await asyncio.gather(engine.task, return_exceptions=True)


async def test_an_engine_that_sleeps_holds_only_its_context(engine: Engine) -> None:
    await engine.mode.sleep()

    assert engine.mode.asleep
    assert engine.device.held_bytes == MEMORY.runtime_bytes
    assert engine.device.now == 1.0, "the weights were copied to the host"


async def test_what_runs_is_aborted_before_the_memory_goes(engine: Engine) -> None:
    running = engine.loop.submit(3, 10**5, "length")
    await running.first_token.wait()
    await engine.mode.sleep()

    assert running.finished.is_set()
    assert running.reason == "abort"
    assert engine.loop.written(running) > 0
    assert engine.metrics.ended["abort"] == 1
    assert engine.device.log[-2:] == ["step 0", f"hold {MEMORY.runtime_bytes}"]


async def test_a_request_that_comes_meanwhile_waits_until_it_wakes(engine: Engine) -> None:
    await engine.mode.sleep()
    late = engine.loop.submit(3, 5, "length")
    for _ in range(20):
        await asyncio.sleep(0)
    assert engine.loop.written(late) == 0

    await engine.mode.wake_up()
    await late.finished.wait()
    assert (late.reason, engine.loop.written(late)) == ("length", 5)
    assert engine.device.held_bytes == MEMORY.awake_bytes


async def test_an_engine_whose_memory_is_taken_sleeps_on(engine: Engine) -> None:
    await engine.mode.sleep()
    engine.device.free_bytes = 0
    with pytest.raises(DeviceRefusedError):
        await engine.mode.wake_up()
    assert engine.mode.asleep

    engine.device.free_bytes = MEMORY.awake_bytes
    await engine.mode.wake_up()
    assert not engine.mode.asleep


async def test_sleeping_and_waking_twice_change_nothing(engine: Engine) -> None:
    await engine.mode.wake_up()
    await asyncio.gather(engine.mode.sleep(), engine.mode.sleep())
    await asyncio.gather(engine.mode.wake_up(), engine.mode.wake_up())

    holds = [entry for entry in engine.device.log if entry.startswith("hold")]
    assert holds == [f"hold {MEMORY.runtime_bytes}", f"hold {MEMORY.awake_bytes}"]


async def test_what_waited_when_it_fell_asleep_is_aborted_without_a_token(engine: Engine) -> None:
    waiting = engine.loop.submit(3, 5, "length")
    await engine.mode.sleep()

    assert waiting.first_token.is_set(), "or a stream would wait for ever"
    assert (waiting.finished.is_set(), engine.loop.written(waiting)) == (True, 0)
