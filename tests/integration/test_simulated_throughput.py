"""Daemon and engines as processes together give the measured throughput and power."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

import psutil
import pytest

from ports import free_port
from simulated_pack import (
    RunningEngine,
    closed_loop,
    serving,
    simulated_device,
    spec,
    until,
)
from slm_worker.gpu.simulated import SimulatedDevice
from slm_worker.gpu.simulated.state import WARM_UP_STEPS

PROMPT_TOKENS = 111
OUTPUT_TOKENS = 292
"""The measured workload."""
LOOK_SECONDS = 0.25
FULL = 0.97
"""Of the sequences that the clients keep running. A client is gone for a moment between two
requests; one that a busy machine keeps from asking leaves its place empty for longer."""
IN_DOUBT = 0.02
"""Of a window: nobody knows when within a look at the counters each of them was read. A busy
machine lets one wait for a second."""
WINDOWS = 3
"""Tries until none of this spoilt one."""


@dataclass(frozen=True)
class Window:
    tokens_per_second: float
    watts: float
    cores: float
    """CPU time of the engines per second of wall clock."""
    running: float
    """Sequences that an engine ran, in the mean of all looks."""
    in_doubt: float
    """The part of it that the looks at its ends took."""

    def is_spoilt(self, full: int) -> bool:
        return self.running < FULL * full or self.in_doubt > IN_DOUBT


async def measure(device: SimulatedDevice, engines: list[RunningEngine], seconds: float) -> Window:
    now = asyncio.get_running_loop().time
    looks: list[float] = []

    async def look() -> None:
        looks.extend([(await one.metrics())["vllm:num_requests_running"] for one in engines])

    async def sample() -> tuple[float, float, float, float, float]:
        began = now()
        tokens = sum(
            [(await engine.metrics())["vllm:generation_tokens_total"] for engine in engines]
        )
        energy = (await device.read()).energy_millijoules
        assert energy is not None
        cpu = sum(sum(psutil.Process(e.process.pid).cpu_times()[:2]) for e in engines)
        ended = now()
        return began, ended, tokens, energy, cpu

    start = await sample()
    while now() < start[1] + seconds:
        await look()
        await asyncio.sleep(LOOK_SECONDS)
    end = await sample()
    since_began, since_ended, tokens, energy, cpu = (b - a for a, b in zip(start, end, strict=True))
    took = (since_began + since_ended) / 2
    in_doubt = (end[1] - end[0] + start[1] - start[0]) / took
    return Window(tokens / took, energy / 1000 / took, cpu / took, fmean(looks), in_doubt)


async def warm(engine: RunningEngine) -> bool:
    steps = (await engine.metrics())["vllm:iteration_tokens_total_count"]
    return steps >= 2 * WARM_UP_STEPS


async def measured(
    tmp_path: Path, *, replicas: int, clients_each: int, max_num_seqs: int, seconds: float
) -> Window:
    """Throughput and power of equal replicas under closed-loop load, once all are warm and while
    they are as full as it makes them."""
    async with AsyncExitStack() as stack:
        device = await stack.enter_async_context(simulated_device(tmp_path))
        engines = []
        for _ in range(replicas):  # one after another, as memory is counted at the start
            replica = spec(free_port(), max_num_seqs=max_num_seqs, replicas=replicas)
            engines.append(await stack.enter_async_context(serving(device, tmp_path, replica)))
        for engine in engines:
            load = closed_loop(
                engine, clients_each, prompt_tokens=PROMPT_TOKENS, output_tokens=OUTPUT_TOKENS
            )
            await stack.enter_async_context(load)
        full = min(clients_each, max_num_seqs)
        for engine in engines:
            await until(partial(engine.metric_is, "vllm:num_requests_running", full))
            await until(partial(warm, engine))
        for _ in range(WINDOWS):
            window = await measure(device, engines, seconds)
            if not window.is_spoilt(full):
                break
            print(f"spoilt, with {full} sequences to run: {window}")
        return window


async def test_two_full_replicas_reach_the_measured_knee(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    window = await measured(tmp_path, replicas=2, clients_each=320, max_num_seqs=256, seconds=10)
    record_property("engine_cores", round(window.cores, 3))
    print(window)

    assert window.tokens_per_second == pytest.approx(10_642, rel=0.05)
    assert window.watts == pytest.approx(443.1, rel=0.05)
    assert window.cores < 1.0


async def test_light_load_is_served_faster_by_one_replica_than_by_two(tmp_path: Path) -> None:
    one = await measured(tmp_path / "one", replicas=1, clients_each=16, max_num_seqs=256, seconds=6)
    two = await measured(tmp_path / "two", replicas=2, clients_each=8, max_num_seqs=256, seconds=6)
    print(one, two)

    # Steps of small batches are short: on a busy machine some come late, and two replicas then
    # meet less often.
    assert one.tokens_per_second == pytest.approx(2_931, rel=0.1)
    assert two.tokens_per_second == pytest.approx(2_019, rel=0.15)  # predicted: nobody measured it
    assert two.tokens_per_second < 0.9 * one.tokens_per_second
