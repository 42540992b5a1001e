"""A simulated GPU as the agent's device: starts the daemon, reads it, ends it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from slm_worker.gpu.base import (
    MPS_NOT_NEEDED,
    DeviceError,
    DeviceIdentity,
    DeviceReading,
    MpsStatus,
)
from slm_worker.gpu.simulated.client import SOCKET_VARIABLE, DaemonConnection
from slm_worker.gpu.simulated.state import DEFAULT_MEMORY_BYTES

SOCKET_NAME = "gpu.sock"
MAX_SOCKET_PATH_BYTES = 107
"""What the kernel allows for the path of a unix socket."""
START_TIMEOUT_SECONDS = 30.0
START_POLL_SECONDS = 0.05
STOP_TIMEOUT_SECONDS = 5.0


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

    @classmethod
    async def start(
        cls, run_directory: Path, *, memory_bytes: int = DEFAULT_MEMORY_BYTES, seed: int = 0
    ) -> SimulatedDevice:
        """Starts the daemon with its socket in ``run_directory`` and waits until it answers.

        Raises DeviceError when the daemon does not start.
        """
        socket = _prepare(run_directory)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "slm_worker.gpu.simulated.daemon", "--socket", str(socket)),
            *("--memory-bytes", str(memory_bytes), "--seed", str(seed)),
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
        return MPS_NOT_NEEDED

    async def read(self) -> DeviceReading:
        answer = await _read(self._socket)
        return DeviceReading(int(answer["energy_millijoules"]), float(answer["power_watts"]))

    def engine_env(self) -> dict[str, str]:
        return {SOCKET_VARIABLE: str(self._socket)}

    async def release(self, pids: Collection[int]) -> None:
        """Nothing is held beyond a process's life."""

    async def recover(self) -> None:
        """Nothing is shared that could break."""

    async def close(self) -> None:
        await _end(self._process)


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


async def _read(socket: Path) -> dict[str, Any]:
    connection = await DaemonConnection.open(socket)
    try:
        return await connection.request("read")
    finally:
        connection.close()


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
            return await _read(socket)
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
