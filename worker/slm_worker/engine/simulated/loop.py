"""The simulated engine's heartbeat: one step after another, at the pace that the GPU gives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from slm_worker.engine.simulated.metrics import EngineMetrics, FinishReason
from slm_worker.engine.simulated.scheduler import Scheduler, Sequence
from slm_worker.gpu.simulated.state import Step

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
    """Or its end without one."""
    finished: asyncio.Event = field(default_factory=asyncio.Event)


class EngineLoop:
    """``step`` tells the GPU how many sequences run, 0 for none, and returns what the step takes;
    ``clock`` and ``sleep`` are of one monotonic time in seconds."""

    def __init__(
        self,
        scheduler: Scheduler,
        metrics: EngineMetrics,
        *,
        step: Callable[[int], Awaitable[Step]],
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._scheduler = scheduler
        self._metrics = metrics
        self._step = step
        self._clock = clock
        self._sleep = sleep
        self._generations: dict[Sequence, Generation] = {}
        self._paused = False
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._resting = asyncio.Event()
        self._resting.set()

    def submit(self, prompt_tokens: int, output_tokens: int, reason: FinishReason) -> Generation:
        """While the loop is paused the generation waits."""
        sequence = Sequence(prompt_tokens, output_tokens, self._clock())
        generation = Generation(sequence, reason)
        self._generations[sequence] = generation
        self._scheduler.add(sequence)
        self._idle.clear()
        self._begin_if_there_is_work()
        return generation

    def abort(self, generation: Generation) -> None:
        """Ends a generation early, which frees its slot; nothing when it has ended already."""
        if self._scheduler.remove(generation.sequence):
            del self._generations[generation.sequence]
            self._metrics.ended["abort"] += 1

    def written(self, generation: Generation) -> int:
        """Tokens written so far."""
        return self._scheduler.written(generation.sequence)

    async def pause(self) -> None:
        """Ends every generation with the reason "abort"; returns when the GPU has nothing to do."""
        self._paused = True
        for generation in list(self._generations.values()):
            self.abort(generation)
            generation.reason = "abort"
            generation.first_token.set()
            generation.finished.set()
        await self._resting.wait()

    def resume(self) -> None:
        """Goes on, with what was submitted meanwhile."""
        self._paused = False
        self._begin_if_there_is_work()

    async def drained(self) -> None:
        """Returns when no request runs or waits."""
        await self._idle.wait()

    async def run(self) -> None:
        """Until cancelled. Raises what ``step`` raises, such as DeviceError."""
        while True:
            if not self._generations:
                self._idle.set()
            if self._paused or not self._generations:
                self._work.clear()
                self._resting.set()
                await self._work.wait()
            await self._run_while_busy()

    def _begin_if_there_is_work(self) -> None:
        if self._generations and not self._paused:
            self._resting.clear()
            self._work.set()

    async def _run_while_busy(self) -> None:
        deadline = last_step_end = self._clock()
        while self._generations and not self._paused:
            self._scheduler.admit()
            step = await self._step(self._scheduler.running)
            self._scheduler.limit_kv(step.kv_share)
            if step.stalled:
                await self._sleep(step.seconds)
                deadline = self._clock()
                continue
            self._scheduler.begin_step(step.seconds)
            deadline = max(deadline + step.seconds, self._clock() - MAX_BACKLOG_SECONDS)
            await self._sleep(max(0.0, deadline - self._clock()))
            now = self._clock()
            self._end_step(now, now - last_step_end)
            last_step_end = now
        await self._step(0)

    def _end_step(self, now: float, interval_seconds: float) -> None:
        result = self._scheduler.end_step()
        metrics = self._metrics
        metrics.generation_tokens += result.tokens
        metrics.iterations.observe(result.tokens)
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
