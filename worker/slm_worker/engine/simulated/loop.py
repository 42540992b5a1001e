"""The simulated engine's heartbeat: one step after another, at the pace that the GPU gives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from slm_worker.engine.simulated.metrics import EngineMetrics, FinishReason
from slm_worker.engine.simulated.scheduler import Scheduler, Sequence

MAX_BACKLOG_SECONDS = 2.0
"""Steps keep to absolute times, so a late one is made up for; of a longer stall (a suspended
process) only this much."""


@dataclass(eq=False)
class Generation:
    """A request in the engine."""

    sequence: Sequence
    reason: FinishReason
    """How it will end if nobody aborts it."""
    first_token: asyncio.Event = field(default_factory=asyncio.Event)
    finished: asyncio.Event = field(default_factory=asyncio.Event)


class EngineLoop:
    """``step`` tells the GPU how many sequences run and returns the step's length in seconds, 0
    for none; ``clock`` and ``sleep`` are of one monotonic time in seconds."""

    def __init__(
        self,
        scheduler: Scheduler,
        metrics: EngineMetrics,
        *,
        step: Callable[[int], Awaitable[float]],
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._scheduler = scheduler
        self._metrics = metrics
        self._step = step
        self._clock = clock
        self._sleep = sleep
        self._generations: dict[Sequence, Generation] = {}
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def submit(self, prompt_tokens: int, output_tokens: int, reason: FinishReason) -> Generation:
        sequence = Sequence(prompt_tokens, output_tokens, self._clock())
        generation = Generation(sequence, reason)
        self._generations[sequence] = generation
        self._scheduler.add(sequence)
        self._idle.clear()
        self._work.set()
        return generation

    def abort(self, generation: Generation) -> None:
        """Ends a generation early, which frees its slot; nothing when it has ended already."""
        if self._scheduler.remove(generation.sequence):
            del self._generations[generation.sequence]
            self._metrics.ended["abort"] += 1

    def written(self, generation: Generation) -> int:
        """Tokens written so far."""
        return self._scheduler.written(generation.sequence)

    async def drained(self) -> None:
        """Returns when no request runs or waits."""
        await self._idle.wait()

    async def run(self) -> None:
        """Until cancelled. Raises what ``step`` raises, such as DeviceError."""
        while True:
            if not self._generations:
                self._idle.set()
                self._work.clear()
                await self._work.wait()
            await self._run_while_busy()

    async def _run_while_busy(self) -> None:
        deadline = last_step_end = self._clock()
        while self._generations:
            self._scheduler.admit()
            step_seconds = await self._step(self._scheduler.running)
            self._scheduler.begin_step(step_seconds)
            deadline = max(deadline + step_seconds, self._clock() - MAX_BACKLOG_SECONDS)
            await self._sleep(max(0.0, deadline - self._clock()))
            now = self._clock()
            self._end_step(now, now - last_step_end)
            last_step_end = now
        await self._step(0)

    def _end_step(self, now: float, interval_seconds: float) -> None:
        result = self._scheduler.end_step()
        metrics = self._metrics
        metrics.generation_tokens += result.tokens
        for sequence in result.started:
            metrics.prompt_tokens += sequence.prompt_tokens
            metrics.ttft.observe(now - sequence.arrived_seconds)
            self._generations[sequence].first_token.set()
        following = result.tokens - len(result.started)
        if following:
            metrics.itl.observe(interval_seconds, following)
        for sequence in result.finished:
            generation = self._generations.pop(sequence)
            metrics.e2e.observe(now - sequence.arrived_seconds)
            metrics.ended[generation.reason] += 1
            generation.finished.set()
