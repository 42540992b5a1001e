"""One engine process with its port and its client: launched, proven to compute, ended."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from slm_worker.engine.base import Engine, ReplicaSpec
from slm_worker.engine.client import EngineClient, EngineNotAnsweringError
from slm_worker.measure import ProcessKey
from slm_worker.replicas.affinity import pin
from slm_worker.replicas.planner import Settings
from slm_worker.replicas.process import EngineProcess, engine_environment

START_TIMEOUT_SECONDS = 1800.0
"""A first start may download the model."""
FIRST_COMPLETION_TIMEOUT_SECONDS = 120.0
"""The first token may wait for kernels to be compiled."""
HEALTH_POLL_SECONDS = 0.2


class ReplicaError(Exception):
    """A replica could not start or ended. ``reason`` is CamelCase; the text has the remedy."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class EngineHost:
    """What all engine processes of a pack have in common."""

    engine: Engine
    model_name: str
    address: str
    """Loopback address on which engines listen."""
    run_dir: Path
    agent_env: Mapping[str, str]
    device_env: Mapping[str, str]
    http: aiohttp.ClientSession


class EngineRun:
    """One engine process. Made by :meth:`launch`, ended through ``process``."""

    def __init__(
        self, host: EngineHost, key: ProcessKey, port: int, process: EngineProcess
    ) -> None:
        self.key = key
        self.port = port
        self.process = process
        self.client = EngineClient(host.http, host.address, port, host.model_name)
        self._engine = host.engine

    @classmethod
    async def launch(
        cls, host: EngineHost, key: ProcessKey, settings: Settings, cores: frozenset[int] | None
    ) -> EngineRun:
        """Starts the process, on ``cores`` where given. Raises ReplicaError (EngineNotFound)."""
        index, start = key
        port = free_port(host.address)
        command = host.engine.command(
            ReplicaSpec(
                index=index,
                host=host.address,
                port=port,
                max_num_seqs=settings.max_num_seqs,
                kv_cache_bytes=settings.kv_cache_bytes,
                gpu_memory_utilization=settings.gpu_memory_utilization,
            )
        )
        tmpdir = host.run_dir / f"r{index}-{start}"
        env = engine_environment(host.agent_env, command, host.device_env, tmpdir)
        try:
            process = await EngineProcess.start(str(index), command.argv, env, tmpdir)
        except OSError as error:
            raise ReplicaError(
                "EngineNotFound",
                f"the engine's program cannot be started: {error}; install it in the pack's image",
            ) from None
        if cores is not None:
            await asyncio.to_thread(pin, process.pid, cores)
        return cls(host, key, port, process)

    async def until_ready(self) -> None:
        """Until it is healthy and has completed a token. Raises ReplicaError."""
        exited = asyncio.create_task(self.process.wait())
        answered = asyncio.create_task(self._until_answering())
        try:
            done, _ = await asyncio.wait(
                {exited, answered},
                timeout=START_TIMEOUT_SECONDS,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if exited in done:
                raise await self.death()
            if answered not in done:
                raise ReplicaError(
                    "StartTimeout",
                    f"the engine was not ready within {START_TIMEOUT_SECONDS:.0f} s: its log says "
                    "what it waits for",
                )
            answered.result()
        finally:
            for task in (exited, answered):
                task.cancel()
            await asyncio.wait({exited, answered})

    async def _until_answering(self) -> None:
        while True:
            if await self.client.healthy():
                break
            await asyncio.sleep(HEALTH_POLL_SECONDS)
        try:
            await self.client.complete_one_token(FIRST_COMPLETION_TIMEOUT_SECONDS)
        except EngineNotAnsweringError as error:
            raise ReplicaError(
                "FirstCompletionFailed", f"the engine is healthy but does not compute: {error}"
            ) from None

    async def death(self) -> ReplicaError:
        """Why the process ended, once it did; nothing of it is left then."""
        returncode = await self.process.wait()
        await self.process.kill()
        return ReplicaError(*self._engine.explain_exit(returncode, self.process.log_tail))


def free_port(address: str) -> int:
    """A port that nobody listens on now. Should somebody take it before the engine does, the
    engine ends, and its next start asks again."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port
