"""One engine process with its port and its client: launched, proven to compute, ended."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import aiohttp

from slm_worker.engine.base import Engine, ReplicaSpec
from slm_worker.engine.causes import find_cause
from slm_worker.engine.client import EngineClient, EngineNotAnsweringError
from slm_worker.gpu.base import DeviceReading, MpsStatus
from slm_worker.measure import ProcessKey
from slm_worker.replicas.affinity import pin
from slm_worker.replicas.environment import engine_environment
from slm_worker.replicas.leftovers import marker
from slm_worker.replicas.memory_limit import MemoryLimit
from slm_worker.replicas.planner import Settings
from slm_worker.replicas.ports import Ports
from slm_worker.replicas.process import EngineProcess
from slm_worker.replicas.progress import StartDeadlines, StartProgress
from slm_worker.replicas.witness import StartWitness

FIRST_COMPLETION_TIMEOUT_SECONDS = 120.0
"""The first token may wait for kernels to be compiled."""
DYING_SECONDS = 10.0
"""An engine that dies answers with 500, or cuts what it answers, before its process has ended."""
HEALTH_POLL_SECONDS = 0.2
PROGRESS_POLL_SECONDS = 0.5

_EXHAUSTED = frozenset(
    {
        errno.EAGAIN,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.EADDRINUSE,
        errno.EADDRNOTAVAIL,
    }
)
"""Of processes, open files, memory or ports there are no more, which says nothing of the engine."""


class ReplicaError(Exception):
    """A replica could not start or ended. ``reason`` is CamelCase; the text has the remedy."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class SharedDevice(Protocol):
    """What replicas need of the device; see :class:`slm_worker.gpu.base.Device`."""

    @property
    def mps(self) -> MpsStatus: ...
    def engine_env(self, memory_fraction: float | None = None) -> dict[str, str]: ...
    async def read(self) -> DeviceReading: ...
    async def release(self, pids: Collection[int]) -> None: ...
    async def recover(self) -> None: ...


@dataclass(frozen=True)
class EngineHost:
    """What all engine processes of a pack have in common."""

    engine: Engine
    model_name: str
    address: str
    """Loopback address on which engines listen."""
    pack_address: str
    """The pack's own, by which a later agent knows these processes."""
    run_dir: Path
    cache_dir: Path
    """Where compiled kernels are kept, over restarts of replicas and of the agent."""
    agent_env: Mapping[str, str]
    device: SharedDevice
    witness: StartWitness
    http: aiohttp.ClientSession
    clock: Callable[[], float]
    deadlines: StartDeadlines = field(default_factory=StartDeadlines)
    memory_limit: MemoryLimit = field(default_factory=MemoryLimit)
    ports: Ports = field(default_factory=Ports)


class EngineRun:
    """One engine process. Made by :meth:`launch`, ended through ``process``."""

    def __init__(
        self,
        host: EngineHost,
        key: ProcessKey,
        port: int,
        process: EngineProcess,
        progress: StartProgress,
    ) -> None:
        self.key = key
        self.port = port
        self.process = process
        self.client = EngineClient(host.http, host.address, port, host.model_name)
        self._engine = host.engine
        self._memory_limit = host.memory_limit
        self._clock = host.clock
        self._progress = progress
        self._was_ready = False
        self._log_until_healthy = ""

    @classmethod
    async def launch(
        cls, host: EngineHost, key: ProcessKey, settings: Settings, cores: frozenset[int] | None
    ) -> EngineRun:
        """Starts the process, on ``cores`` where given. Raises ReplicaError."""
        index, start = key
        try:
            port = host.ports.choose(host.address)
        except OSError as error:
            raise _not_started(error) from None
        command = host.engine.command(
            ReplicaSpec(
                index=index,
                host=host.address,
                port=port,
                max_num_seqs=settings.max_num_seqs,
                kv_cache_bytes=settings.kv_cache_bytes,
                gpu_memory_utilization=settings.gpu_memory_utilization,
                sleep_mode=settings.sleep_mode,
            )
        )
        tmpdir = host.run_dir / f"r{index}-{start}"
        env = engine_environment(
            host.agent_env,
            command,
            host.device.engine_env(settings.gpu_memory_utilization),
            marker=marker(host.pack_address, index),
            cache_dir=host.cache_dir,
            tmpdir=tmpdir,
        )
        progress = StartProgress(host.deadlines, host.clock())
        try:
            process = await EngineProcess.start(
                index,
                command.argv,
                env,
                tmpdir,
                heard=lambda line: progress.said(line, host.clock()),
                release=host.device.release,
            )
        except OSError as error:
            raise _not_started(error) from None
        if cores is not None:
            try:
                await asyncio.to_thread(pin, process.pid, cores)
            except BaseException:
                await process.kill()
                raise
        return cls(host, key, port, process, progress)

    async def until_ready(self) -> str:
        """Until it is healthy and has completed a token. Answers what its start wrote, which says
        nothing of its later end. Raises ReplicaError."""
        exited = asyncio.create_task(self.process.wait())
        others = [
            asyncio.create_task(work) for work in (self._until_answering(), self._until_overdue())
        ]
        tasks = [exited, *others]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self.process.returncode is not None:
                raise await self.death()
            for other in others:
                if other.done():
                    other.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        self._was_ready = True
        return self._log_until_healthy + self.process.take_log()

    async def _until_overdue(self) -> None:
        while True:
            overdue = self._progress.overdue(self._clock())
            if overdue is not None:
                raise ReplicaError(overdue.reason, overdue.message)
            await asyncio.sleep(PROGRESS_POLL_SECONDS)

    async def _until_answering(self) -> None:
        while True:
            if await self.client.healthy():
                break
            await asyncio.sleep(HEALTH_POLL_SECONDS)
        # Whatever it complained of until now, it has got over.
        self._log_until_healthy = self.process.take_log()
        try:
            await self.client.complete_one_token(FIRST_COMPLETION_TIMEOUT_SECONDS)
        except EngineNotAnsweringError as error:
            if await self.dies():
                return  # until_ready says of what
            killed = self._memory_limit.killed()
            if killed:
                raise ReplicaError("OutOfMemory", killed) from None
            # It was healthy, so that its start is not what went wrong.
            cause = find_cause(self.process.log_tail, was_ready=True) or (
                "FirstCompletionFailed",
                f"the engine is healthy but does not compute: {error}",
            )
            raise ReplicaError(*cause) from None

    async def dies(self) -> bool:
        """Whether the process ends within DYING_SECONDS. To be asked of an engine that refused
        what it should be able to do, before it is blamed for that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DYING_SECONDS):
                await self.process.wait()
                return True
        return False

    async def death(self) -> ReplicaError:
        """Why the process ended, once it did; nothing of it is left then."""
        returncode = await self.process.wait()
        killed = self._memory_limit.killed()
        await self.process.kill()
        if killed:
            return ReplicaError("OutOfMemory", killed)
        return ReplicaError(
            *self._engine.explain_exit(returncode, self.process.log_tail, was_ready=self._was_ready)
        )


def _not_started(error: OSError) -> ReplicaError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ReplicaError(
            "DiskFull",
            f"the engine cannot be started: {error}; free space there, or give the pack more: "
            "spec.podTemplate.resources.limits.ephemeral-storage, or the node's disk",
        )
    if error.errno in _EXHAUSTED:
        return ReplicaError(
            "StartRefused",
            f"the kernel refuses to start the engine: {error}; raise the limit of processes or "
            "open files that the container or the node has",
        )
    return ReplicaError(
        "EngineNotFound",
        f"the engine's program cannot be started: {error}; install it in the pack's image",
    )
