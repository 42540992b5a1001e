"""The restart of the whole set after a fatal fault that ends, or locks out, every replica.

What follows from a fault is decided in :mod:`slm_worker.replicas.faults`; this carries it out: all
out of the router at once, all processes ended, the device brought back, and then the planner starts
them after a backoff, those that may have caused it one by one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from slm_worker.engine.causes import DEVICE_FAULT, MPS_FAULT, MPS_NOT_READY
from slm_worker.gpu.base import DeviceError
from slm_worker.replicas.faults import (
    FAULTS_UNTIL_SET_APART,
    SUSPICION_WINDOW_SECONDS,
    FaultHistory,
    suspects,
)
from slm_worker.replicas.lifecycle import Lifecycle, end
from slm_worker.replicas.member import ANSWERING, Replica
from slm_worker.replicas.planner import Target
from slm_worker.replicas.replica import EngineRun, ReplicaError, SharedDevice
from slm_worker.replicas.tasks import Tasks
from slm_worker.wire import ReplicaPhase

FIRST_EXIT_SECONDS = 5.0
"""An exit that long before the fault was seen may belong to it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Exit:
    index: int
    pid: int
    at_seconds: float


@dataclass(frozen=True)
class _Death:
    index: int
    reason: str
    at_seconds: float


class SetRestart:
    def __init__(
        self,
        device: SharedDevice,
        lifecycle: Lifecycle,
        tasks: Tasks,
        replicas: Mapping[int, Replica],
        *,
        clock: Callable[[], float],
    ) -> None:
        self._device = device
        self._lifecycle = lifecycle
        self._tasks = tasks
        self._replicas = replicas
        self._clock = clock
        self._layout: Target | None = None
        self._history = FaultHistory(replicas=1)
        self._exits: deque[_Exit] = deque(maxlen=8)
        self._deaths: deque[_Death] = deque(maxlen=8)
        self._cause = ""
        self._task: asyncio.Task[None] | None = None

    @property
    def under_way(self) -> bool:
        return self._task is not None and not self._task.done()

    def follow(self, target: Target) -> None:
        """Faults count within one layout: another one is another chance for everybody."""
        if self._layout is None or (
            (target.replicas, target.settings) != (self._layout.replicas, self._layout.settings)
        ):
            self._history = FaultHistory(replicas=target.replicas)
        self._layout = target

    def check(self) -> bool:
        """Begins a restart where the device says that it is due; answers whether replicas may be
        acted on now. A device that stays faulted is tried again after the backoff."""
        faulted = self._device.mps.state == "Faulted"
        if faulted and self._clock() >= self._history.restart_at_seconds:
            self._begin(self._device.mps.message)
        if faulted or self.under_way:
            return False
        for one in self._replicas.values():
            if one.phase is ReplicaPhase.FAILED:
                one.retry_at_seconds = max(one.retry_at_seconds, self._history.restart_at_seconds)
                if one.index in self._history.set_apart:
                    one.phase = ReplicaPhase.SET_APART
                    self._lifecycle.blame(one, self._set_apart())
        return True

    def exited(self, one: Replica) -> None:
        """To be called as soon as a serving engine ended by itself."""
        if one.run is not None:
            self._exits.append(_Exit(one.index, one.run.process.pid, self._clock()))

    def died(self, one: Replica, error: ReplicaError) -> None:
        """To be called once the cause is known; begins a restart where it was a fault."""
        self._deaths.append(_Death(one.index, error.reason, self._clock()))
        others = any(other.answering for other in self._replicas.values() if other is not one)
        if error.reason == MPS_FAULT or (
            # Refused with nobody else there, so it is no other client that it waits for.
            error.reason == MPS_NOT_READY
            and not others
            and self._device.mps.state in ("Running", "Faulted")
        ):
            self._begin(error.message)

    def _begin(self, cause: str) -> None:
        if not self.under_way:
            self._task = self._tasks.run(self._restart(cause), "restart of the set")

    async def _restart(self, cause: str) -> None:
        self._cause = cause
        log.error("a fatal fault, so every replica restarts: %s", cause)
        at_seconds = self._clock()
        struck = [
            one
            for one in self._replicas.values()
            if one.phase in ANSWERING | {ReplicaPhase.STARTING}
        ]
        for one in struck:
            one.phase, one.admitted, one.last_sample = ReplicaPhase.STOPPING, False, None
        await asyncio.gather(*(self._lifecycle.eject(one) for one in struck))
        await asyncio.gather(*(self._lifecycle.end_start(one) for one in struck))
        # Also those that others are about to stop: the device comes back when the last is gone.
        runs = {one.index: one.run for one in self._replicas.values() if one.run is not None}
        await asyncio.gather(*(end(run) for run in runs.values()))
        suspected: frozenset[int] = frozenset()
        try:
            suspected = await self._suspects(at_seconds, runs)
            await self._device.recover()
        except Exception:
            # The replicas must start again all the same; a device that is still faulted has
            # them restarted once more.
            log.exception("the restart of the set goes on")
        self._history = self._history.with_fault(at_seconds, suspected)
        self._exits.clear()
        self._deaths.clear()
        error = ReplicaError(
            MPS_FAULT,
            f"a fatal fault ended every replica on the GPU, and they start again: {cause}",
        )
        for one in struck:
            one.run = None
            one.turning = False
            if one.index in suspected or not suspected:
                one.failures += 1
            self._lifecycle.blame(one, error)
            one.phase = ReplicaPhase.FAILED

    async def _suspects(self, at_seconds: float, runs: Mapping[int, EngineRun]) -> frozenset[int]:
        """``runs``: the processes that were still there at the fault, and are gone now.

        All of them end within milliseconds, in any order; but the culprit's own words name a
        kernel that failed, and those of the others only that their client was ended.
        """
        by_pid = {exit.pid: exit.index for exit in self._exits}
        by_pid |= {run.process.pid: index for index, run in runs.items()}
        since_seconds = at_seconds - FIRST_EXIT_SECONDS
        deaths = {one.index: one.reason for one in self._deaths if one.at_seconds >= since_seconds}
        for index, run in runs.items():
            if run.process.returncode != -signal.SIGKILL:
                deaths[index] = (await run.death()).reason
        culprits = [index for index, reason in deaths.items() if reason == DEVICE_FAULT]
        first = [exit.index for exit in self._exits if exit.at_seconds >= since_seconds]
        likely = culprits if len(culprits) == 1 else first
        with contextlib.suppress(DeviceError):
            await self._device.read()  # an exit may be seen before the device tells of its fault
        return suspects(self._device.mps.suspect_pids, by_pid, likely[0] if likely else None)

    def _set_apart(self) -> ReplicaError:
        return ReplicaError(
            "SetApart",
            f"this replica alone was suspected of {FAULTS_UNTIL_SET_APART} fatal faults of the GPU "
            f"within {SUSPICION_WINDOW_SECONDS:.0f} s, so that it is not started again in this "
            f"layout; the others serve. The last: {self._cause}. Look for what is its own, as Xid "
            "errors in the node's kernel log",
        )
