"""Every measured run, again on the simulated GPU: engines and GPU together, in virtual time.

Requests have the mean lengths of the study and never run out, so the simulation is saturated from
end to end; a measured row is the mean of a whole run of 2,000 prompts, ramp and tail included.
They are compared as they are: while it is saturated the simulated GPU gives the run's mean.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from simulated_gpu import CONFIGS
from slm_worker.engine.simulated.loop import EngineLoop
from slm_worker.engine.simulated.metrics import EngineMetrics
from slm_worker.engine.simulated.scheduler import Scheduler
from slm_worker.gpu.simulated.pace import CHUNKED_PREFILL, RUNTIME_BYTES, STUDY_MEMORY_SHARE, Paces
from slm_worker.gpu.simulated.state import SimulatedGpu, Step
from slm_worker.planning.catalogue import gpus
from slm_worker.planning.footprint import footprint, parse_config
from slm_worker.planning.measured import STUDY_GPU, Row, rows

GPU = gpus()[STUDY_GPU]
PACES = Paces(GPU)
LENGTHS = {"opt-1.3b": (111, 292), "llama-2-7b": (113, 323)}
"""Mean prompt and output tokens of the study's requests."""
SETTLE_STEPS = 300
"""Until warm-up is over and requests end at different times."""
MEASURE_STEPS = 600


@dataclass
class VirtualTime:
    """Sleepers wake in order, and nobody waits for real."""

    now: float = 0.0
    _order: itertools.count[int] = field(default_factory=itertools.count)
    _sleepers: list[tuple[float, int, asyncio.Future[None]]] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        waker = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._order), waker))
        await waker

    async def pass_until(self, happened: Callable[[], bool]) -> None:
        while not happened():
            if self._sleepers:
                self.now, _, waker = heapq.heappop(self._sleepers)
                waker.set_result(None)
            for _ in range(4):  # a step is begun after it ended, and clients ask again
                await asyncio.sleep(0)


@dataclass(frozen=True)
class Outcome:
    tokens_per_second: float
    watts: float
    preemptions: int


async def simulate(row: Row) -> Outcome:
    """Replicas of one row under clients that are a few more than fit."""
    time = VirtualTime()
    gpu = SimulatedGpu(
        memory_bytes=GPU.memory_bytes,
        idle_watts=GPU.idle_watts,
        clock=time.clock,
        rng=random.Random(0),
    )
    config = CONFIGS[row.model]
    parsed = parse_config(config, row.model)
    assert parsed is not None
    needs = footprint(parsed, None, ())
    assert needs is not None
    share_bytes = int(STUDY_MEMORY_SHARE * GPU.memory_bytes / row.replicas)
    kv_bytes = share_bytes - needs.weights_bytes - RUNTIME_BYTES
    engines: list[tuple[EngineLoop, EngineMetrics, Scheduler]] = []
    for number in range(row.replicas):
        pace = PACES.of(config | {CHUNKED_PREFILL: row.chunked_prefill})
        gpu.attach(number, 1000 + number, pace, share_bytes)
        scheduler = Scheduler(
            max_num_seqs=row.max_num_seqs, kv_capacity_tokens=kv_bytes // needs.kv_bytes_per_token
        )
        metrics = EngineMetrics()
        loop = EngineLoop(
            scheduler, metrics, step=stepper(gpu, number), clock=time.clock, sleep=time.sleep
        )
        engines.append((loop, metrics, scheduler))
    tasks = [asyncio.create_task(loop.run()) for loop, _, _ in engines]
    prompt, output = LENGTHS[row.model]
    tasks += [
        asyncio.create_task(client(loop, prompt, output, number, row.max_num_seqs))
        for loop, _, _ in engines
        for number in range(row.max_num_seqs + 8)
    ]

    def steps() -> int:
        return sum(sum(metrics.iterations.counts) for _, metrics, _ in engines)

    def tokens() -> int:
        return sum(metrics.generation_tokens for _, metrics, _ in engines)

    await time.pass_until(lambda: steps() >= row.replicas * SETTLE_STEPS)
    began, joules, written = time.now, gpu.meter.joules, tokens()
    until = steps() + row.replicas * MEASURE_STEPS
    await time.pass_until(lambda: steps() >= until)
    seconds = time.now - began
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return Outcome(
        (tokens() - written) / seconds,
        (gpu.meter.joules - joules) / seconds,
        sum(scheduler.preemptions for _, _, scheduler in engines),
    )


def stepper(gpu: SimulatedGpu, number: int) -> Callable[[int], Awaitable[Step]]:
    async def step(running: int) -> Step:
        return gpu.step(number, running)

    return step


async def client(loop: EngineLoop, prompt: int, output: int, number: int, clients: int) -> None:
    """Its first answer is shorter than the others, lest all end in the same step."""
    first = 1 + number % clients * output // clients
    for length in itertools.chain([first], itertools.repeat(output)):
        await loop.submit(prompt, length, "length").finished.wait()


def described(row: Row) -> str:
    chunked = "-chunked" if row.chunked_prefill else ""
    return f"{row.kind}-{row.model}{chunked}-{row.replicas}x{row.max_num_seqs}"


@pytest.mark.parametrize("row", rows(), ids=described)
async def test_a_measured_row_is_reproduced(row: Row) -> None:
    outcome = await simulate(row)

    assert outcome.tokens_per_second == pytest.approx(row.tokens_per_second, rel=0.05)
    assert outcome.watts == pytest.approx(row.watts, rel=0.05)


def test_every_row_of_the_study_is_there() -> None:
    assert len(rows()) == 35
    assert {(row.model, row.chunked_prefill) for row in rows()} == {
        ("opt-1.3b", False),
        ("opt-1.3b", True),
        ("llama-2-7b", False),
    }
