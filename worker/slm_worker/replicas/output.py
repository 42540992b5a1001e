"""What an engine process writes: followed to its end, line by line, in bounded memory."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

LOG_TAIL_BYTES = 64 * 1024
MAX_LOG_LINE_BYTES = 8 * 1024
OUTPUT_END_SECONDS = 2.0
"""How long to wait for the rest of the output of processes that are gone."""

_READ_BYTES = 64 * 1024

log = logging.getLogger("slm_worker.engine")


class Output:
    """Follows a pipe: every line goes to the agent's log, the last ones are kept.

    The pipe is read whatever becomes of the log, so that an engine is never blocked by it.
    """

    def __init__(
        self,
        replica: int,
        transport: asyncio.ReadTransport,
        reader: asyncio.StreamReader,
        heard: Callable[[str], None],
    ) -> None:
        self._replica = replica
        self._transport = transport
        self._reader = reader
        self._heard = heard
        self._tail = bytearray()
        self._task = asyncio.create_task(self._follow(), name=f"output of {replica}")

    @classmethod
    async def follow(cls, replica: int, descriptor: int, heard: Callable[[str], None]) -> Output:
        """Takes over ``descriptor``. ``heard`` gets each line, and what a progress bar shows."""
        reader = asyncio.StreamReader()
        pipe = os.fdopen(descriptor, "rb", buffering=0)
        try:
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), pipe
            )
        except BaseException:
            pipe.close()
            raise
        return cls(replica, transport, reader, heard)

    @property
    def tail(self) -> str:
        return self._tail.decode(errors="replace")

    def take(self) -> str:
        """The tail, which begins anew."""
        taken = self.tail
        self._tail.clear()
        return taken

    async def end(self) -> None:
        # Somebody outside the group may still hold the pipe: then its words are not waited for.
        await asyncio.wait([self._task], timeout=OUTPUT_END_SECONDS)
        self._task.cancel()
        await asyncio.wait([self._task])
        self._transport.close()

    async def _follow(self) -> None:
        line = bytearray()
        while chunk := await self._reader.read(_READ_BYTES):
            self._tail += chunk
            del self._tail[:-LOG_TAIL_BYTES]
            line += chunk
            *whole, rest = bytes(line).split(b"\n")
            for one in whole:
                self._log(one)
            line = bytearray(rest)
            if len(line) > MAX_LOG_LINE_BYTES:
                self._log(bytes(line))
                line.clear()
            elif b"\r" in line:
                self._heard(_shown(bytes(line)))
        if line:
            self._log(bytes(line))

    def _log(self, line: bytes) -> None:
        text = _shown(line)
        if text:
            self._heard(text)
            log.info("%s", text, extra={"replica": self._replica})


def _shown(line: bytes) -> str:
    """What a terminal would show: a progress bar writes over itself."""
    last = line.rstrip().rpartition(b"\r")[2]
    return last[:MAX_LOG_LINE_BYTES].decode(errors="replace").rstrip()
