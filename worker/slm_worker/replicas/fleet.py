"""Carries out the planner's actions: the replicas of a pack, their tasks and their failures."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Protocol

from slm_worker.engine.client import EngineNotAnsweringError
from slm_worker.engine.metrics import EngineSample
from slm_worker.replicas.affinity import core_sets, pin
from slm_worker.replicas.health import (
    HEALTHY_RESET_SECONDS,
    PROBE_TIMEOUT_SECONDS,
    ProgressWatch,
    backoff_seconds,
)
from slm_worker.replicas.planner import (
    Action,
    Observed,
    Settings,
    Target,
    Verb,
    is_settled,
    next_actions,
)
from slm_worker.replicas.replica import EngineHost, EngineRun, ReplicaError
from slm_worker.routing.config import max_in_flight
from slm_worker.routing.router import RouterError
from slm_worker.wire import Problem, ReplicaPhase, ReplicaState

DRAIN_SECONDS = 120.0
"""Longest wait for requests in flight; then the replica stops and they are cut."""

_ACTS_ON = {
    Verb.ADMIT: {ReplicaPhase.READY},
    Verb.WITHDRAW: {ReplicaPhase.READY},
    Verb.DRAIN: {ReplicaPhase.READY},
    Verb.KEEP: {ReplicaPhase.DRAINING},
    Verb.STOP: {ReplicaPhase.STARTING, ReplicaPhase.DRAINING},
    Verb.FORGET: {ReplicaPhase.FAILED},
}

log = logging.getLogger(__name__)


class RequestRouter(Protocol):
    """What the fleet needs of the router. All raise RouterError."""

    async def set_endpoint(self, index: int, port: int, max_in_flight: int) -> None: ...
    async def admit(self, index: int) -> None: ...
    async def drain(self, index: int) -> None: ...
    async def eject(self, index: int) -> None: ...


@dataclass
class Replica:
    """One replica of the layout over its restarts."""

    index: int
    settings: Settings
    phase: ReplicaPhase
    starts: int
    run: EngineRun | None = None
    admitted: bool = False
    watch: ProgressWatch | None = None
    last_sample: EngineSample | None = None
    problem: Problem | None = None
    failures: int = 0
    start_seconds: float | None = None
    ready_at_seconds: float = 0.0
    drain_until_seconds: float = 0.0
    retry_at_seconds: float = 0.0
    starting: asyncio.Task[None] | None = None
    probing: asyncio.Task[None] | None = None

    def state(self) -> ReplicaState:
        sample = self.last_sample
        return ReplicaState(
            index=self.index,
            phase=self.phase,
            in_rotation=self.admitted,
            max_num_seqs=self.settings.max_num_seqs,
            kv_cache_bytes=self.settings.kv_cache_bytes,
            pid=self.run.process.pid if self.run else None,
            starts=self.starts,
            failures=self.failures,
            start_seconds=self.start_seconds,
            running=sample.running if sample else None,
            waiting=sample.waiting if sample else None,
            problem=self.problem,
        )


class Fleet:
    """``last_reading`` is awaited before a replica stops, so that its counters are complete;
    ``wake`` is called when something happened that the next step should see."""

    def __init__(
        self,
        host: EngineHost,
        router: RequestRouter,
        *,
        clock: Callable[[], float],
        wake: Callable[[], None],
        last_reading: Callable[[], Coroutine[None, None, None]],
    ) -> None:
        self._host = host
        self._router = router
        self._clock = clock
        self._wake = wake
        self._last_reading = last_reading
        self._cores = frozenset(os.sched_getaffinity(0))
        self._pinned_for = 0
        self._starts: Counter[int] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self.replicas: dict[int, Replica] = {}

    @property
    def starts(self) -> int:
        return self._starts.total()

    def running(self) -> list[Replica]:
        """Those whose engine answers: ready or draining."""
        return [
            one
            for one in self.replicas.values()
            if one.run and one.phase in (ReplicaPhase.READY, ReplicaPhase.DRAINING)
        ]

    async def step(self, target: Target, in_flight: Mapping[int, int]) -> bool:
        """One pass; answers whether the fleet is now what ``target`` wants. Raises RouterError.

        ``in_flight``: the router's count of requests by replica.
        """
        await self._pin_all(target.replicas)
        now_seconds = self._clock()
        for action in next_actions(target, self._observed(in_flight), now_seconds):
            await self._carry_out(action, target, in_flight)
        for one in self.running():
            self._probe_if_due(one)
        return is_settled(target, self._observed(in_flight))

    async def drain_all(self) -> None:
        """Takes every replica out of rotation. Raises RouterError."""
        for one in self.running():
            one.admitted = False
            await self._router.drain(one.index)

    async def close(self) -> None:
        """Ends every process, at the same time. The fleet takes no step after it."""
        for one in self.replicas.values():
            one.phase, one.admitted = ReplicaPhase.STOPPING, False
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        runs = [one.run for one in self.replicas.values() if one.run]
        await asyncio.gather(*(run.process.stop() for run in runs))
        self.replicas.clear()

    def _observed(self, in_flight: Mapping[int, int]) -> list[Observed]:
        return [
            Observed(
                index=one.index,
                phase=one.phase,
                settings=one.settings,
                admitted=one.admitted,
                idle=in_flight.get(one.index, 0) == 0,
                drain_until_seconds=one.drain_until_seconds,
                retry_at_seconds=one.retry_at_seconds,
            )
            for _, one in sorted(self.replicas.items())
        ]

    async def _carry_out(
        self, action: Action, target: Target, in_flight: Mapping[int, int]
    ) -> None:
        index = action.index
        log.info("%s replica", action.verb, extra={"replica": index})
        if action.verb is Verb.START:
            self._start(index, target)
            return
        one = self.replicas[index]
        if one.phase not in _ACTS_ON[action.verb]:
            return  # it changed since it was observed; the next pass decides again
        match action.verb:
            case Verb.ADMIT:
                await self._admit(one)
            case Verb.WITHDRAW:
                one.admitted = False
                await self._router.drain(index)
            case Verb.DRAIN:
                one.phase, one.admitted = ReplicaPhase.DRAINING, False
                one.drain_until_seconds = self._clock() + DRAIN_SECONDS
                await self._router.drain(index)
            case Verb.KEEP:
                one.phase = ReplicaPhase.READY
            case Verb.STOP:
                if one.phase is ReplicaPhase.DRAINING:
                    await self._last_reading()
                if one.phase in _ACTS_ON[Verb.STOP]:
                    one.phase, one.last_sample = ReplicaPhase.STOPPING, None
                    self._run_task(self._stop(one, in_flight.get(index, 0)), f"stop {index}")
            case Verb.FORGET:
                del self.replicas[index]

    async def _admit(self, one: Replica) -> None:
        if one.run is None:
            return
        await self._router.set_endpoint(
            one.index, one.run.port, max_in_flight(one.settings.max_num_seqs)
        )
        await self._router.admit(one.index)
        if one.phase is ReplicaPhase.READY:
            one.admitted = True
        else:  # it died meanwhile, perhaps after it was ejected
            await self._eject(one)

    def _start(self, index: int, target: Target) -> None:
        before = self.replicas.get(index)
        failures = before.failures if before and before.settings == target.settings else 0
        self._starts[index] += 1
        one = Replica(
            index=index,
            settings=target.settings,
            phase=ReplicaPhase.STARTING,
            starts=self._starts[index],
            problem=before.problem if before and failures else None,
            failures=failures,
        )
        self.replicas[index] = one
        sets = core_sets(self._cores, target.replicas)
        cores = sets[index] if sets else None
        one.starting = self._run_task(self._until_ready(one, cores), f"start {index}")

    async def _until_ready(self, one: Replica, cores: frozenset[int] | None) -> None:
        began_seconds = self._clock()
        try:
            run = await self._launch(one, cores)
            await run.until_ready()
        except ReplicaError as error:
            await self._fail(one, error)
            return
        one.ready_at_seconds = self._clock()
        one.start_seconds = one.ready_at_seconds - began_seconds
        one.watch = ProgressWatch(one.ready_at_seconds)
        one.problem = None
        one.phase = ReplicaPhase.READY
        log.info("ready after %.1f s", one.start_seconds, extra={"replica": one.index})
        self._run_task(self._watch_exit(one, run), f"watch {one.index}")

    async def _launch(self, one: Replica, cores: frozenset[int] | None) -> EngineRun:
        launching = asyncio.create_task(
            EngineRun.launch(self._host, (one.index, one.starts), one.settings, cores)
        )
        try:
            one.run = await asyncio.shield(launching)
        except asyncio.CancelledError:
            # The process may be there already, and whoever cancelled shall find and end it.
            with contextlib.suppress(ReplicaError):
                one.run = await launching
            raise
        return one.run

    async def _watch_exit(self, one: Replica, run: EngineRun) -> None:
        await run.process.wait()
        if one.phase in (ReplicaPhase.READY, ReplicaPhase.DRAINING):
            await self._fail(one, None)

    async def _fail(self, one: Replica, error: ReplicaError | None) -> None:
        """Out of rotation at once; ``error`` is None where the exit itself tells the cause."""
        if one.phase is ReplicaPhase.STOPPING:
            return
        routed = one.phase is not ReplicaPhase.STARTING
        # Until its memory is free again it must not look like one that can be started.
        one.phase, one.admitted, one.last_sample = ReplicaPhase.STOPPING, False, None
        if routed:
            await self._eject(one)
        if one.run is not None:
            if error is None:
                error = await one.run.death()
            await one.run.process.kill()
            one.run = None
        now_seconds = self._clock()
        if routed and now_seconds - one.ready_at_seconds >= HEALTHY_RESET_SECONDS:
            one.failures = 0
        one.failures += 1
        one.retry_at_seconds = now_seconds + backoff_seconds(one.failures)
        if error is not None:
            one.problem = self._problem(one, error)
            log.error("%s: %s", error.reason, error.message, extra={"replica": one.index})
        one.phase = ReplicaPhase.FAILED

    def _problem(self, one: Replica, error: ReplicaError) -> Problem:
        since_seconds = self._clock()
        if one.problem is not None and one.problem.reason == error.reason:
            since_seconds = one.problem.since_seconds
        return Problem(reason=error.reason, message=error.message, since_seconds=since_seconds)

    async def _stop(self, one: Replica, cut: int) -> None:
        if one.starting is not None:
            one.starting.cancel()
            await asyncio.wait([one.starting])
        if one.run is not None:
            if one.watch is not None:
                await self._eject(one)
            if cut:
                log.warning(
                    "drained for %.0f s, %d requests are cut",
                    DRAIN_SECONDS,
                    cut,
                    extra={"replica": one.index},
                )
            await one.run.process.stop()
        del self.replicas[one.index]

    async def _eject(self, one: Replica) -> None:
        # A router that does not answer is restarted with the state that it was asked for.
        with contextlib.suppress(RouterError):
            await self._router.eject(one.index)

    def _probe_if_due(self, one: Replica) -> None:
        if one.probing is not None and not one.probing.done():
            return
        if one.watch is not None and one.watch.probe_due(self._clock()):
            one.probing = self._run_task(self._probe(one, one.watch), f"probe {one.index}")

    async def _probe(self, one: Replica, watch: ProgressWatch) -> None:
        if one.run is None:
            return
        try:
            await one.run.client.complete_one_token(PROBE_TIMEOUT_SECONDS)
        except EngineNotAnsweringError as error:
            watch.probed(False, self._clock())
            log.warning("%s", error, extra={"replica": one.index})
            if watch.hung and one.watch is watch and one in self.running():
                await self._fail(
                    one,
                    ReplicaError(
                        "Hung",
                        f"{error}, more than once and without any progress: the process was "
                        "killed and starts again",
                    ),
                )
        else:
            watch.probed(True, self._clock())

    async def _pin_all(self, replicas: int) -> None:
        """Divides the cores anew when the layout's count changes."""
        if replicas == self._pinned_for:
            return
        self._pinned_for = replicas
        sets = core_sets(self._cores, replicas)
        for one in self.running():
            if one.run is not None and one.index < replicas:
                cores = sets[one.index] if sets else self._cores
                await asyncio.to_thread(pin, one.run.process.pid, cores)

    def _run_task(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("task %s failed", task.get_name(), exc_info=task.exception())
        self._wake()
