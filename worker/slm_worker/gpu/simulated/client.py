"""One connection to the simulated GPU's daemon."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from slm_worker.gpu.base import DeviceError
from slm_worker.gpu.simulated.faults import Ending
from slm_worker.gpu.simulated.protocol import MAX_LINE_BYTES

SOCKET_VARIABLE = "SLM_SIMULATED_GPU_SOCKET"
"""Environment variable that tells an engine where its simulated GPU listens."""
ANSWER_TIMEOUT_SECONDS = 10.0


class DeviceRefusedError(DeviceError):
    """The device answered and refused; ``reason`` is OutOfMemory, MpsNotReady, GpuLost or
    InvalidRequest."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class DaemonConnection:
    """Sends one request at a time, for one caller. Closing it frees what its engine holds.

    After a request that was cancelled or failed it answers no other: close it.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        self._reader = reader
        self._writer = writer
        self._answer: asyncio.Future[dict[str, Any]] | None = None
        self._ending: asyncio.Future[Ending] = loop.create_future()
        self._reading = loop.create_task(self._read())

    @classmethod
    async def open(cls, socket: Path) -> DaemonConnection:
        """Raises DeviceError when nobody listens on ``socket``."""
        try:
            reader, writer = await asyncio.open_unix_connection(socket, limit=MAX_LINE_BYTES)
        except OSError as error:
            raise DeviceError(
                f"the simulated GPU does not listen on {socket} ({error}): restart the pack"
            ) from None
        return cls(reader, writer)

    async def request(self, op: str, **fields: object) -> dict[str, Any]:
        """The daemon's answer. Raises DeviceRefusedError, DeviceError when the daemon is gone."""
        if self._reading.done():
            raise _gone("it closed the connection")
        self._answer = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(json.dumps({"op": op, **fields}).encode() + b"\n")
            async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
                answer = await self._answer
        except (OSError, TimeoutError) as error:
            raise _gone(repr(error)) from None
        if "error" in answer:
            raise DeviceRefusedError(answer["reason"], answer["error"])
        return answer

    async def ending(self) -> Ending:
        """Returns when the device tells this engine to end, and why. Raises DeviceError when the
        daemon is gone."""
        return await asyncio.shield(self._ending)

    def close(self) -> None:
        self._reading.cancel()
        self._writer.close()

    async def _read(self) -> None:
        why = "it closed the connection"
        try:
            while line := await self._reader.readline():
                message = json.loads(line)
                if "end" in message:
                    if not self._ending.done():
                        self._ending.set_result(Ending(message["end"]))
                elif self._answer is not None and not self._answer.done():
                    self._answer.set_result(message)
        except (OSError, ValueError) as error:
            why = repr(error)
        finally:
            for waiting in (self._answer, self._ending):
                if waiting is not None and not waiting.done():
                    waiting.set_exception(_gone(why))
                    waiting.exception()  # nobody may be waiting for it


async def ask(socket: Path, op: str, **fields: object) -> dict[str, Any]:
    """One request on a connection of its own. Raises DeviceRefusedError and DeviceError."""
    connection = await DaemonConnection.open(socket)
    try:
        return await connection.request(op, **fields)
    finally:
        connection.close()


def _gone(why: str) -> DeviceError:
    return DeviceError(f"the simulated GPU does not answer ({why}): restart the pack")
