"""One connection to the simulated GPU's daemon."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from slm_worker.gpu.base import DeviceError
from slm_worker.gpu.simulated.protocol import MAX_LINE_BYTES

SOCKET_VARIABLE = "SLM_SIMULATED_GPU_SOCKET"
"""Environment variable that tells an engine where its simulated GPU listens."""
ANSWER_TIMEOUT_SECONDS = 10.0


class DeviceRefusedError(DeviceError):
    """The device answered and refused; ``reason`` is OutOfMemory or InvalidRequest."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class DaemonConnection:
    """Sends one request at a time, for one caller. Closing it frees what its engine holds.

    After a request that was cancelled or failed it answers no other: close it.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

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

    async def request(self, op: str, **fields: int) -> dict[str, Any]:
        """The daemon's answer. Raises DeviceRefusedError, DeviceError when the daemon is gone."""
        try:
            self._writer.write(json.dumps({"op": op, **fields}).encode() + b"\n")
            async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
                line = await self._reader.readline()
        except (OSError, TimeoutError) as error:
            raise _gone(repr(error)) from None
        if not line:
            raise _gone("it closed the connection")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise DeviceRefusedError(answer["reason"], answer["error"])
        return answer

    def close(self) -> None:
        self._writer.close()


def _gone(why: str) -> DeviceError:
    return DeviceError(f"the simulated GPU does not answer ({why}): restart the pack")
