"""Carries out the planner's actions on the replicas of a pack."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace

from slm_worker.replicas.affinity import core_sets, pin
from slm_worker.replicas.lifecycle import DRAIN_SECONDS, Lifecycle, RequestRouter
from slm_worker.replicas.member import Replica
from slm_worker.replicas.planner import Action, Observed, Target, Verb, is_settled, next_actions
from slm_worker.replicas.replica import EngineHost
from slm_worker.replicas.set_restart import SetRestart
from slm_worker.replicas.tasks import Tasks
from slm_worker.wire import ReplicaPhase

_ACTS_ON = {
    Verb.ADMIT: {ReplicaPhase.READY},
    Verb.WITHDRAW: {ReplicaPhase.READY},
    Verb.DRAIN: {ReplicaPhase.READY},
    Verb.KEEP: {ReplicaPhase.DRAINING},
    Verb.SLEEP: {ReplicaPhase.READY},
    Verb.WAKE: {ReplicaPhase.ASLEEP},
    Verb.STOP: {ReplicaPhase.STARTING, ReplicaPhase.DRAINING, ReplicaPhase.ASLEEP},
    Verb.FORGET: {ReplicaPhase.FAILED, ReplicaPhase.SET_APART},
}

log = logging.getLogger(__name__)


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
        self._engine = host.engine
        self._memory_limit = host.memory_limit
        self._router = router
        self._clock = clock
        self._last_reading = last_reading
        self._cores = frozenset(os.sched_getaffinity(0))
        self._pinned_for = (0, self._cores)
        self._starts: Counter[int] = Counter()
        self._tasks = Tasks(wake)
        self._lifecycle = Lifecycle(
            host,
            router,
            self._tasks,
            clock=clock,
            exited=lambda one: self._set_restart.exited(one),
            died=lambda one, error: self._set_restart.died(one, error),
            removed=self._removed,
        )
        self.replicas: dict[int, Replica] = {}
        self._set_restart = SetRestart(
            host.device, self._lifecycle, self._tasks, self.replicas, clock=clock
        )

    @property
    def starts(self) -> int:
        return self._starts.total()

    @property
    def cannot_sleep(self) -> str:
        """Why no replica can sleep here; empty where they can, as far as is known."""
        if not self._engine.can_sleep:
            return "this engine cannot sleep on this device"
        return self._lifecycle.sleep_trouble

    def running(self) -> list[Replica]:
        """Those whose engine answers: ready, draining or asleep."""
        return [one for one in self.replicas.values() if one.answering]

    async def step(self, target: Target, in_flight: Mapping[int, int]) -> bool:
        """One pass; answers whether the fleet is now what ``target`` wants. Raises RouterError.

        ``in_flight``: the router's count of requests by replica.
        """
        self._memory_limit.look()
        target = self._with_sleep_mode(target)
        for one in self.replicas.values():
            one.in_flight = in_flight.get(one.index, 0)
        self._set_restart.follow(target)
        if not self._set_restart.check():
            return False
        await self._pin_all(target.replicas)
        now_seconds = self._clock()
        for action in next_actions(target, self._observed(), now_seconds):
            await self._carry_out(action, target)
        for one in self.running():
            self._lifecycle.probe_if_due(one)
        return is_settled(target, self._observed()) and not self._set_restart.under_way

    async def drain_all(self) -> None:
        """Takes every replica out of rotation. Raises RouterError."""
        for one in self.running():
            one.admitted = False
            await self._router.drain(one.index)

    async def close(self) -> None:
        """Ends every process, at the same time. The fleet takes no step after it."""
        for one in self.replicas.values():
            one.phase, one.admitted = ReplicaPhase.STOPPING, False
        await self._tasks.cancel_all()
        runs = [one.run for one in self.replicas.values() if one.run]
        stopping = (run.process.stop() for run in runs)
        ends = await asyncio.gather(*stopping, return_exceptions=True)
        for run, ended in zip(runs, ends, strict=True):
            if isinstance(ended, Exception):
                # It ends with the agent, which has more to end.
                log.error("process %d could not be ended: %r", run.process.pid, ended)
        self.replicas.clear()

    def _with_sleep_mode(self, target: Target) -> Target:
        """Engines are started so that they can sleep only where some shall."""
        asleep = target.asleep and not self.cannot_sleep
        return replace(target, asleep=asleep, settings=replace(target.settings, sleep_mode=asleep))

    def _observed(self) -> list[Observed]:
        return [one.observed() for _, one in sorted(self.replicas.items())]

    async def _carry_out(self, action: Action, target: Target) -> None:
        index = action.index
        if self._set_restart.under_way:
            return  # it began in this pass, and what was planned is void
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
            case Verb.SLEEP:
                if not one.being_probed:
                    self._lifecycle.sleep(one)
            case Verb.WAKE:
                self._lifecycle.wake(one)
            case Verb.STOP:
                if one.phase is ReplicaPhase.DRAINING:
                    await self._last_reading()
                if one.phase in _ACTS_ON[Verb.STOP]:
                    self._lifecycle.stop(one)
            case Verb.FORGET:
                del self.replicas[index]

    async def _admit(self, one: Replica) -> None:
        if one.run is None:
            return
        await self._router.set_endpoint(one.index, one.run.port, one.settings.max_num_seqs)
        await self._router.admit(one.index)
        if one.phase is ReplicaPhase.READY:
            one.admitted = True
        else:  # it died meanwhile, perhaps after it was ejected
            await self._lifecycle.eject(one)

    def _start(self, index: int, target: Target) -> None:
        before = self.replicas.get(index)
        if before is not None and before.settings != target.settings:
            before = None
        failures = before.failures if before else 0
        self._starts[index] += 1
        one = Replica(
            index=index,
            settings=target.settings,
            phase=ReplicaPhase.STARTING,
            starts=self._starts[index],
            problem=before.problem if before and failures else None,
            failures=failures,
            failed_in_company=before is not None and before.failed_in_company,
        )
        self.replicas[index] = one
        sets = core_sets(self._cores, target.replicas)
        self._lifecycle.start(one, sets[index] if sets else None)

    def _removed(self, one: Replica) -> None:
        if self.replicas.get(one.index) is one:
            del self.replicas[one.index]

    async def _pin_all(self, replicas: int) -> None:
        """Divides the cores anew when the layout's count changes, or the node's division does."""
        self._cores = frozenset(await asyncio.to_thread(os.sched_getaffinity, 0))
        if (replicas, self._cores) == self._pinned_for:
            return
        self._pinned_for = (replicas, self._cores)
        sets = core_sets(self._cores, replicas)
        for one in self.running():
            if one.run is not None and one.index < replicas:
                cores = sets[one.index] if sets else self._cores
                await asyncio.to_thread(pin, one.run.process.pid, cores)
