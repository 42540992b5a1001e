"""CUDA MPS: the daemon through which several engine processes run on one GPU at the same time.

Without it the GPU's processes take turns, and further replicas bring little. With it they share a
fate: a fatal fault of one client ends all, and the server takes no new one until they are gone.
What the daemon and its servers say is read in mps_replies.py and mps_log.py, both pure.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from slm_worker.gpu import mps_processes as processes
from slm_worker.gpu.base import DeviceError, MpsStatus
from slm_worker.gpu.mps_control import (
    CONTROL,
    ControlError,
    ControlNotRunError,
    MpsDirectories,
)
from slm_worker.gpu.mps_ending import control_of, end_daemon, end_leftovers
from slm_worker.gpu.mps_log import LoggedFault, fault_in
from slm_worker.gpu.mps_logfiles import LogFollower
from slm_worker.gpu.mps_replies import MpsServer
from slm_worker.wire import MpsConfig

MIB = 2**20
HEADROOM_BYTES = 1024 * MIB
"""By how much a replica's memory limit exceeds its share. vLLM starts only when the free memory
that it sees, which is the limit less what its CUDA context took, covers its share. The context
takes tens of MiB under MPS; the rest forgives an estimate that is somewhat low."""
NO_LIMITS = MpsConfig()
MISSES_UNTIL_FAULT = 2
"""So many commands in a row without an answer, until the daemon counts as dead or hanging."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MpsTimings:
    """How patient the agent is with the daemon."""

    command_seconds: float = 10.0
    """For one command. The daemon answers in milliseconds, unless it hangs."""
    server_start_seconds: float = 30.0
    """Until the first server holds the GPU; without persistence mode the driver loads first."""
    look_seconds: float = 5.0
    """Between looks at daemon, servers and clients, each a few short processes."""
    log_seconds: float = 0.5
    """Between looks into the logs, and between questions while something is awaited."""
    release_seconds: float = 5.0
    """For ending the work of processes that shall be killed."""
    recover_seconds: float = 30.0
    """Until the last client is gone after a fault and the server takes new ones."""
    quit_seconds: float = 5.0
    """For an end in peace, then for a forced one, then for the processes to be gone."""

    @property
    def end_seconds(self) -> float:
        """The longest that the end of the daemon may take."""
        return 3 * self.quit_seconds


class MpsDaemon:
    """A control daemon with pipe and log directories of its own, owned by this agent.

    :attr:`status` is Running, Faulted, or Unavailable with cause and remedy. A GPU without MPS
    still serves one replica, and a broken MPS is brought back, so nothing but :meth:`start` raises.
    """

    def __init__(
        self,
        directories: MpsDirectories,
        config: MpsConfig,
        gpu: str,
        timings: MpsTimings,
        clock: Callable[[], float],
    ) -> None:
        self.status = MpsStatus("Unavailable", "the MPS control daemon is being started.")
        self._directories = directories
        self._config = config
        self._gpu = gpu
        self._timings = timings
        self._clock = clock
        self._control = control_of(directories, timings.command_seconds)
        self._logs = LogFollower(directories.log)
        self._busy = asyncio.Lock()
        """Held while the daemon is started or ended, and while it is looked at."""
        self._servers: tuple[MpsServer, ...] = ()
        self._groups: dict[int, int] = {}
        """Process group of each client seen, so that a dead one is known by its replica."""
        self._misses = 0
        self._watching: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        run_dir: Path,
        config: MpsConfig = NO_LIMITS,
        gpu: str = "",
        timings: MpsTimings = MpsTimings(),
        clock: Callable[[], float] = time.monotonic,
    ) -> Self:
        """Ends what agents that are gone left behind, starts the daemon below ``run_dir``, and
        waits until a server holds the GPU. ``gpu``: its UUID, or empty for the first one.

        Raises DeviceError where nothing can be written there, or no program be run: that may pass.
        """
        directory = run_dir / "mps"
        daemon = cls(
            MpsDirectories(directory / "pipe", directory / "log"), config, gpu, timings, clock
        )
        if daemon._control.program is None:
            daemon.status = _unavailable(
                f"{CONTROL} is not on PATH: install the NVIDIA driver's compute utilities "
                "(in a container, let the NVIDIA container toolkit mount them: "
                "NVIDIA_DRIVER_CAPABILITIES must include compute)."
            )
            return daemon
        await end_leftovers(daemon._directories, timings.command_seconds, timings.quit_seconds)
        try:
            await daemon._begin()
        except ControlNotRunError as error:
            await daemon._end()
            raise DeviceError(f"MPS: {error}") from error
        except ControlError as error:
            await daemon._end()
            daemon.status = _unavailable(
                f"the MPS control daemon did not start: {error}. Its log is in "
                f"{directory / 'log'}; check that no other MPS daemon holds this GPU and that "
                "this user may start one."
            )
            return daemon
        daemon.status = daemon._running()
        daemon._watching = asyncio.create_task(daemon._watch(), name="mps watch")
        return daemon

    def engine_env(self, memory_bytes: int | None = None) -> dict[str, str]:
        """What makes an engine process a client of this daemon; nothing without a daemon.

        ``memory_bytes``: its share of the GPU's memory, past which it shall run out of memory by
        itself instead of taking from the others; None sets no limit. CUDA then reports the limit's
        rest as free and the whole GPU as total memory, so that a share of the whole means the same
        to vLLM as without the limit.
        """
        if self.status.state == "Unavailable":
            return {}
        env = self._directories.environment
        if self._config.active_thread_percentage is not None:
            env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = str(self._config.active_thread_percentage)
        if memory_bytes is not None:
            limit = -(-(memory_bytes + HEADROOM_BYTES) // MIB)
            env["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] = f"{self._gpu or '0'}={limit}M"
        return env

    async def release(self, pids: Collection[int]) -> None:
        """Ends the GPU work of these processes and of their process groups: a client that is
        killed in the midst of it can bring all others down. Bounded by ``release_seconds``."""
        if self.status.state == "Unavailable":
            return
        try:
            async with asyncio.timeout(self._timings.release_seconds):
                for server in await self._control.servers():
                    of = await asyncio.to_thread(processes.groups, server.clients)
                    for client in server.clients:
                        if client in pids or of.get(client) in pids:
                            await self._control.terminate_client(server.pid, client)
        except (ControlError, TimeoutError) as error:
            _log.warning("MPS did not release %s: %s", sorted(pids), str(error) or "no answer")

    async def recover(self) -> None:
        """After a fault, also one that only an engine told of, once no replica runs: waits until
        the last client is gone and the server takes new ones, or else starts the daemon anew.

        Stays Faulted where neither succeeds, to be called again after a while.
        """
        async with self._busy:
            if self.status.state == "Unavailable":
                return
            if self.status.state == "Running":
                await self._look()
            if not await self._healed():
                _log.warning("MPS does not recover by itself: the daemon is started anew")
                await self._end()
                try:
                    await self._begin()
                except (ControlError, DeviceError) as error:
                    self.status = replace(
                        self.status, message=f"the MPS daemon could not be started anew: {error}."
                    )
                    return
            await asyncio.to_thread(self._logs.skip)
            self._groups.clear()
            self._misses = 0
            self.status = replace(self._running(), faults=self.status.faults)

    async def close(self) -> None:
        """Ends the daemon and its servers; its clients must have ended before."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
            self._watching = None
            self.status = _unavailable("the MPS control daemon was ended.")
            await self._end()

    async def _begin(self) -> None:
        """Starts the daemon and its server. Raises ControlError, quoting the log where it tells,
        and DeviceError where there is no place for its files."""
        try:
            for path in (self._directories.pipe, self._directories.log):
                await asyncio.to_thread(path.mkdir, mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise DeviceError(
                f"The MPS control daemon has no place for its files: {error}: free space there, or "
                "give the agent another TMPDIR."
            ) from error
        await asyncio.to_thread(self._logs.skip)
        await self._control.start_daemon()
        self._servers = await self._control.servers()
        # Now, not with the first replica, for its failure would tell less.
        with contextlib.suppress(ControlError):  # it may take longer than a command; look below
            await self._control.start_server(os.getuid())
        until_seconds = self._clock() + self._timings.server_start_seconds
        while self._clock() < until_seconds:
            self._servers = await self._control.servers()
            if any(one.state in ("Active", "Unknown") for one in self._servers):
                return
            fault = fault_in((await asyncio.to_thread(self._logs.new_lines)).lines)
            if fault is not None:
                raise ControlError(f"its server does not start ({fault.cause})")
            await asyncio.sleep(self._timings.log_seconds)
        _log.warning("no MPS server yet: the first replica may have to wait for it")

    async def _end(self) -> None:
        """Ends the daemon: in peace, by force, and by SIGKILL for it and its servers."""
        await end_daemon(self._control, self._directories, self._timings.quit_seconds)
        self._servers = ()

    async def _watch(self) -> None:
        looked_at_seconds = self._clock()
        while True:
            await asyncio.sleep(self._timings.log_seconds)
            try:
                async with self._busy:
                    new = await asyncio.to_thread(self._logs.new_lines)
                    if self.status.state != "Running":
                        continue
                    if (fault := fault_in(new.lines)) is not None:
                        self._fault(fault)
                    elif (
                        new.by_servers
                        or self._clock() - looked_at_seconds >= self._timings.look_seconds
                    ):
                        await self._look()
                        looked_at_seconds = self._clock()
            except Exception:
                # A watch that ends would never see the next fault.
                _log.exception("the watch over MPS failed")

    async def _look(self) -> None:
        """One look at daemon, servers and clients."""
        try:
            servers = await self._control.servers()
        except ControlNotRunError as error:
            _log.warning("nobody can look at MPS now: %s", error)
            return
        except ControlError as error:
            self._misses += 1
            if self._misses >= MISSES_UNTIL_FAULT:
                self._fault(LoggedFault(f"the MPS control daemon does not answer: {error}"))
            return
        self._misses = 0
        self._groups |= await asyncio.to_thread(
            processes.groups, [pid for one in servers for pid in one.clients]
        )
        present = {one.pid for one in servers}
        gone = [one.pid for one in self._servers if one.clients and one.pid not in present]
        blocked = [one.pid for one in servers if one.state == "Fault"]
        self._servers = servers
        if gone:
            self._fault(LoggedFault(f"the MPS server {gone[0]} ended under its clients"))
        elif blocked:
            logged = fault_in((await asyncio.to_thread(self._logs.new_lines)).lines)
            cause = f"the MPS server {blocked[0]} is in state FAULT after a fatal fault of a client"
            self._fault(logged or LoggedFault(cause))
        else:
            self.status = replace(self._running(), faults=self.status.faults)

    def _fault(self, fault: LoggedFault) -> None:
        leaders = {self._groups[pid] for pid in fault.client_pids if pid in self._groups}
        self.status = MpsStatus(
            "Faulted",
            f"every process on the GPU ended or will: {fault.cause}. The log is in "
            f"{self._directories.log}; all replicas start again.",
            self.status.faults + 1,
            tuple(sorted(leaders)),
        )
        _log.error("MPS: %s", self.status.message)

    async def _healed(self) -> bool:
        """Whether the daemon answers, no client is left, and no server is blocked, in time."""
        until_seconds = self._clock() + self._timings.recover_seconds
        while self._clock() < until_seconds:
            try:
                self._servers = await self._control.servers()
                if not any(one.clients or one.state == "Fault" for one in self._servers):
                    return True
            except ControlNotRunError as error:
                _log.warning("nobody can look at MPS now: %s", error)
            except ControlError as error:
                _log.warning("MPS: %s", error)
                return False
            await asyncio.sleep(self._timings.log_seconds)
        return False

    def _running(self) -> MpsStatus:
        missing = ", ".join(sorted(self._control.missing))
        if not missing:
            return MpsStatus("Running")
        return MpsStatus(
            "Running",
            f"this driver's {CONTROL} does not know {missing}, so faults show only in the log or "
            "in the end of a server, and a killed replica may take the others along: a newer "
            "driver has them.",
        )


def _unavailable(message: str) -> MpsStatus:
    return MpsStatus("Unavailable", message)
