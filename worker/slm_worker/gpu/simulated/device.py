"""A simulated GPU as the agent's device: starts the daemon, reads it, ends it."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from slm_worker.gpu.base import (
    MPS_NOT_NEEDED,
    DeviceError,
    DeviceIdentity,
    DeviceReading,
    MpsStatus,
)
from slm_worker.gpu.simulated.client import SOCKET_VARIABLE, ask
from slm_worker.gpu.simulated.pace import DEFAULT_GPU
from slm_worker.planning.catalogue import gpus
from slm_worker.wire import GpuHealth

GPU_VARIABLE = "SLM_SIMULATED_GPU"
"""Environment variable of the agent that names the GPU to simulate, as the catalogue does."""

SOCKET_NAME = "gpu.sock"
MAX_SOCKET_PATH_BYTES = 107
"""What the kernel allows for the path of a unix socket."""
START_TIMEOUT_SECONDS = 30.0
START_POLL_SECONDS = 0.05
STOP_TIMEOUT_SECONDS = 5.0

log = logging.getLogger(__name__)


class SimulatedDevice:
    """Made by :meth:`start`. Its replicas share it as the measured ones did under MPS."""

    def __init__(
        self,
        identity: DeviceIdentity,
        socket: Path,
        process: asyncio.subprocess.Process,
    ) -> None:
        self.identity = identity
        self._socket = socket
        self._process = process
        self._mps = MPS_NOT_NEEDED

    @classmethod
    async def start(
        cls,
        run_directory: Path,
        *,
        gpu: str = DEFAULT_GPU,
        memory_bytes: int | None = None,
        seed: int = 0,
    ) -> SimulatedDevice:
        """Starts the daemon with its socket in ``run_directory`` and waits until it answers.

        ``gpu`` is its name in the catalogue; ``memory_bytes`` replaces the GPU's own. Raises
        DeviceError when there is no such GPU or the daemon does not start.
        """
        if gpu not in gpus():
            raise DeviceError(f"{GPU_VARIABLE} {gpu!r}: use one of {', '.join(gpus())}")
        socket = _prepare(run_directory)
        memory = () if memory_bytes is None else ("--memory-bytes", str(memory_bytes))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "slm_worker.gpu.simulated.daemon", "--socket", str(socket)),
            *("--gpu", gpu, *memory, "--seed", str(seed)),
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C at the terminal is the agent's to handle
        )
        try:
            answer = await _first_answer(socket, process)
        except BaseException:
            await _end(process)
            raise
        identity = DeviceIdentity(
            kind="Simulated",
            name=str(answer["name"]),
            memory_bytes=int(answer["memory_bytes"]),
            simulated=True,
        )
        return cls(identity, socket, process)

    @property
    def mps(self) -> MpsStatus:
        """As of the last :meth:`read` or :meth:`recover`."""
        return self._mps

    async def read(self) -> DeviceReading:
        """Raises DeviceError when the daemon is gone."""
        answer = await ask(self._socket, "read")
        self._mps = _mps_status(answer["mps"])
        processes = answer["processes"]
        return DeviceReading(
            energy_millijoules=answer["energy_millijoules"],
            power_watts=answer["power_watts"],
            energy_source="Counter",
            memory_used_bytes=answer["memory_used_bytes"],
            utilization_percent=answer["utilization_percent"],
            process_memory_bytes=None if processes is None else dict(processes),
            health=GpuHealth.model_validate(answer["health"]),
        )

    def engine_env(self, memory_fraction: float | None = None) -> dict[str, str]:
        return {SOCKET_VARIABLE: str(self._socket)}

    async def release(self, pids: Collection[int]) -> None:
        """Frees what these processes hold, as terminating an MPS client does."""
        try:
            await ask(self._socket, "release", pids=list(pids))
        except DeviceError as error:
            log.warning("not released: %s", error)  # with the daemon all that they held is gone

    async def recover(self) -> None:
        try:
            await ask(self._socket, "recover")
            self._mps = _mps_status((await ask(self._socket, "read"))["mps"])
        except DeviceError as error:
            log.warning("not recovered: %s", error)  # the next read says the same

    async def close(self) -> None:
        await _end(self._process)


def _mps_status(answer: Mapping[str, Any]) -> MpsStatus:
    return MpsStatus(
        "Faulted" if answer["faulted"] else "NotNeeded",
        message=answer["message"],
        faults=answer["faults"],
        suspect_pids=tuple(answer["suspect_pids"]),
    )


def _prepare(run_directory: Path) -> Path:
    """The path of the socket, in a directory that exists."""
    socket = run_directory / SOCKET_NAME
    if len(str(socket).encode()) > MAX_SOCKET_PATH_BYTES:
        raise DeviceError(
            f"run directory {run_directory}: its path is too long for a unix socket, "
            f"use one of at most {MAX_SOCKET_PATH_BYTES - len(SOCKET_NAME) - 1} bytes"
        )
    run_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    socket.unlink(missing_ok=True)
    return socket


async def _first_answer(socket: Path, process: asyncio.subprocess.Process) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START_TIMEOUT_SECONDS
    while True:
        if process.returncode is not None:
            raise DeviceError(
                f"the simulated GPU exited with {process.returncode} at its start: "
                "its output in the agent's log says why"
            )
        try:
            return await ask(socket, "read")
        except DeviceError:
            if loop.time() > deadline:
                raise
            await asyncio.sleep(START_POLL_SECONDS)


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None  # noqa: S101 - asked for above
    process.stdin.close()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
