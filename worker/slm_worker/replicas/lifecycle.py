"""What takes its time in a replica's life: start, sleep, waking, probes, failure, end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Protocol

from slm_worker.engine.causes import SLEEP_UNSUPPORTED
from slm_worker.engine.client import EngineNotAnsweringError, SleepUnsupportedError
from slm_worker.replicas.health import (
    HEALTHY_RESET_SECONDS,
    PROBE_TIMEOUT_SECONDS,
    ProgressWatch,
    backoff_seconds,
)
from slm_worker.replicas.member import ANSWERING, Replica
from slm_worker.replicas.replica import (
    FIRST_COMPLETION_TIMEOUT_SECONDS,
    EngineHost,
    EngineRun,
    ReplicaError,
)
from slm_worker.replicas.tasks import Tasks
from slm_worker.routing.router import RouterError
from slm_worker.wire import Problem, ReplicaPhase

DRAIN_SECONDS = 120.0
"""Longest wait for requests in flight; then the replica stops and they are cut."""
END_AGAIN_SECONDS = 1.0
"""Until an end that went wrong is tried again."""

log = logging.getLogger(__name__)


class RequestRouter(Protocol):
    """What replicas need of the router. All raise RouterError."""

    async def set_endpoint(self, index: int, port: int, max_num_seqs: int) -> None: ...
    async def admit(self, index: int) -> None: ...
    async def drain(self, index: int) -> None: ...
    async def eject(self, index: int) -> None: ...


class Lifecycle:
    """``exited`` is called at once when a serving engine ended by itself, ``died`` with the cause
    when nothing of it is left, or when it would not start; ``removed`` when one that was stopped is
    gone."""

    def __init__(
        self,
        host: EngineHost,
        router: RequestRouter,
        tasks: Tasks,
        *,
        clock: Callable[[], float],
        exited: Callable[[Replica], None],
        died: Callable[[Replica, ReplicaError], None],
        removed: Callable[[Replica], None],
    ) -> None:
        self._host = host
        self._router = router
        self._tasks = tasks
        self._clock = clock
        self._exited = exited
        self._died = died
        self._removed = removed
        self.sleep_trouble = ""
        """Why the engine cannot sleep, once it was found out."""

    def start(self, one: Replica, cores: frozenset[int] | None) -> None:
        one.starting = self._tasks.run(self._start(one, cores), f"start {one.index}")

    def stop(self, one: Replica) -> None:
        one.phase, one.last_sample = ReplicaPhase.STOPPING, None
        self._tasks.run(self._stop(one), f"stop {one.index}")

    def sleep(self, one: Replica) -> None:
        one.turning = True
        self._tasks.run(self._sleep(one), f"sleep {one.index}")

    def wake(self, one: Replica) -> None:
        one.turning = True
        self._tasks.run(self._wake(one), f"wake {one.index}")

    def probe_if_due(self, one: Replica) -> None:
        if one.being_probed or one.turning:
            return
        if one.watch is not None and one.watch.probe_due(self._clock()):
            one.probing = self._tasks.run(self._probe(one, one.watch), f"probe {one.index}")

    async def eject(self, one: Replica) -> None:
        """Never raises: whoever ejects a replica has its process to end."""
        try:
            await self._router.eject(one.index)
        except RouterError:
            pass  # a router that does not answer is restarted with the state that it was asked for
        except Exception:
            log.exception("the replica may still be in rotation", extra={"replica": one.index})

    async def end_start(self, one: Replica) -> None:
        """Breaks off a start; what it has launched is found in ``one.run``."""
        if one.starting is not None:
            one.starting.cancel()
            await asyncio.wait([one.starting])

    async def _start(self, one: Replica, cores: frozenset[int] | None) -> None:
        """Ends in a phase that the planner acts on, whatever goes wrong."""
        try:
            await self._until_ready(one, cores)
        except Exception as error:
            await self._fail(one, _unexpected(one, error))

    async def _until_ready(self, one: Replica, cores: frozenset[int] | None) -> None:
        began_seconds = self._clock()
        witness = self._host.witness
        async with witness.start() as begun:
            try:
                run = await self._launch(one, cores)
                log_of_start = await run.until_ready()
            except ReplicaError as error:
                await self._fail(one, error, alone=begun.alone)
                return
            await witness.ready(begun, one.settings, log_of_start)
        if one.phase is not ReplicaPhase.STARTING:
            return  # stopped in the moment in which it became ready
        one.ready_at_seconds = self._clock()
        one.start_seconds = one.ready_at_seconds - began_seconds
        one.watch = ProgressWatch(one.ready_at_seconds)
        one.problem, one.failed_in_company = None, False
        one.phase = ReplicaPhase.READY
        log.info("ready after %.1f s", one.start_seconds, extra={"replica": one.index})
        self._tasks.run(self._watch_exit(one, run), f"watch {one.index}")

    async def _launch(self, one: Replica, cores: frozenset[int] | None) -> EngineRun:
        launching = asyncio.create_task(
            EngineRun.launch(self._host, (one.index, one.starts), one.settings, cores)
        )
        try:
            one.run = await asyncio.shield(launching)
        except asyncio.CancelledError:
            # The process may be there already, and whoever cancelled shall find and end it.
            with contextlib.suppress(Exception):
                one.run = await launching
            raise
        return one.run

    async def _watch_exit(self, one: Replica, run: EngineRun) -> None:
        await run.process.wait()
        if one.phase in ANSWERING:
            self._exited(one)
            await self._fail(one, None, alone=not self._host.witness.sees_starts)

    async def _sleep(self, one: Replica) -> None:
        run = one.run
        if run is None:
            return
        try:
            await run.client.sleep()
        except SleepUnsupportedError as error:
            self.sleep_trouble = f"{error}: this engine cannot sleep"
            log.warning("%s", self.sleep_trouble, extra={"replica": one.index})
        except EngineNotAnsweringError as error:
            await self._refused(one, run, "SleepFailed", error)
        else:
            if one.phase is ReplicaPhase.READY:
                one.watch = ProgressWatch(self._clock())
                one.phase = ReplicaPhase.ASLEEP
        finally:
            one.turning = False

    async def _wake(self, one: Replica) -> None:
        run = one.run
        if run is None:
            return
        began_seconds = self._clock()
        try:
            await run.client.wake_up()
            await run.client.complete_one_token(FIRST_COMPLETION_TIMEOUT_SECONDS)
        except (EngineNotAnsweringError, SleepUnsupportedError) as error:
            await self._refused(one, run, "WakeFailed", error)
        else:
            if one.phase is ReplicaPhase.ASLEEP:
                one.watch = ProgressWatch(self._clock())
                one.phase = ReplicaPhase.READY
                seconds = self._clock() - began_seconds
                log.info("awake after %.1f s", seconds, extra={"replica": one.index})
        finally:
            one.turning = False

    async def _refused(self, one: Replica, run: EngineRun, reason: str, error: Exception) -> None:
        """Whoever watches for its exit tells what a dying engine died of."""
        if not await run.dies():
            text = f"{error}: the process was ended and starts again"
            await self._fail(one, ReplicaError(reason, text))

    async def _fail(self, one: Replica, error: ReplicaError | None, *, alone: bool = True) -> None:
        """Out of rotation at once; ``error`` is None where the exit itself tells the cause. Unless
        it was ``alone`` it is no problem yet: it may have been the doing of others that start.
        """
        if one.phase not in ANSWERING | {ReplicaPhase.STARTING}:
            return  # somebody else is at it
        routed = one.phase is not ReplicaPhase.STARTING
        # Until its memory is free again it must not look like one that can be started.
        one.phase, one.admitted, one.last_sample = ReplicaPhase.STOPPING, False, None
        if routed:
            await self.eject(one)
        if one.run is not None:
            try:
                error = error or await one.run.death()
            except Exception as unexpected:
                error = _unexpected(one, unexpected)
            await end(one.run)
            one.run = None
        now_seconds = self._clock()
        if routed and now_seconds - one.ready_at_seconds >= HEALTHY_RESET_SECONDS:
            one.failures = 0
        if alone:
            one.failures += 1
        one.failed_in_company = not alone
        one.retry_at_seconds = now_seconds + backoff_seconds(max(1, one.failures))
        if error is not None:
            if alone:
                self.blame(one, error)
            else:
                text = "failed while others started, and tries again alone: %s: %s"
                log.warning(text, error.reason, error.message, extra={"replica": one.index})
            if error.reason == SLEEP_UNSUPPORTED:
                self.sleep_trouble = error.message
            self._died(one, error)
        one.phase = ReplicaPhase.FAILED

    def blame(self, one: Replica, error: ReplicaError) -> None:
        """Makes ``error`` the replica's problem, which is as old as its first of that reason."""
        log.error("%s: %s", error.reason, error.message, extra={"replica": one.index})
        since_seconds = self._clock()
        if one.problem is not None and one.problem.reason == error.reason:
            since_seconds = one.problem.since_seconds
        one.problem = Problem(
            reason=error.reason, message=error.message, since_seconds=since_seconds
        )

    async def _stop(self, one: Replica) -> None:
        await self.end_start(one)
        if one.run is not None:
            if one.watch is not None:
                await self.eject(one)
            if one.in_flight:
                log.warning(
                    "drained for %.0f s, %d requests are cut",
                    DRAIN_SECONDS,
                    one.in_flight,
                    extra={"replica": one.index},
                )
            await end(one.run, gently=True)
        self._removed(one)

    async def _probe(self, one: Replica, watch: ProgressWatch) -> None:
        if one.run is None:
            return
        client, asleep = one.run.client, one.phase is ReplicaPhase.ASLEEP
        prove = client.answer_asleep if asleep else client.complete_one_token
        try:
            await prove(PROBE_TIMEOUT_SECONDS)
        except EngineNotAnsweringError as error:
            watch.probed(False, self._clock())
            log.warning("%s", error, extra={"replica": one.index})
            if watch.hung(self._clock()) and one.watch is watch and one.answering:
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


async def end(run: EngineRun, *, gently: bool = False) -> None:
    """Ends its process. Never raises: what goes wrong is tried again, for while it holds its
    memory nothing else may start there."""
    while True:
        try:
            await (run.process.stop() if gently else run.process.kill())
        except Exception:
            log.exception("process %d could not be ended yet", run.process.pid)
            await asyncio.sleep(END_AGAIN_SECONDS)
        else:
            return


def _unexpected(one: Replica, error: Exception) -> ReplicaError:
    """To be called while ``error`` is handled."""
    log.exception("a mistake of the agent's own", extra={"replica": one.index})
    return ReplicaError(
        "AgentError",
        f"the agent failed while it handled this replica, and tries again: {error!r}; the pack's "
        "log has more: please report it",
    )
