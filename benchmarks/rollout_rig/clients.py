"""Clients that ask a service for short completions, and account for every request.

Each has one request after another. Half keep their connection, as clients with a pool do; the
others open one for each request. What was not sent yet may be tried again: a connection that was
refused, or one that the server had closed. What was sent is not: nobody knows what became of it.
"""

from __future__ import annotations

import asyncio
import json
import select
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from benchmarks.rollout_rig.front import Front
from slm_worker.wire import ROUTER_PORT

RETRY_SECONDS = 0.1
"""Pause before a refused connection is tried again."""
ANSWER_SECONDS = 120.0
POLL_SECONDS = 0.05
_DETAIL_CHARACTERS = 200


@dataclass
class Count:
    """After the clients have left: sent = completed + failed + lost."""

    sent: int = 0
    completed: int = 0
    retried: int = 0
    """Tries that ended before anything was sent. Of one request, there may be several."""
    failed: int = 0
    """Answered with an error."""
    lost: int = 0
    """Sent, and never answered as a whole."""
    seconds: array[float] = field(default_factory=lambda: array("d"))
    """From the first try to the whole answer, of each completed one."""
    causes: Counter[str] = field(default_factory=Counter)

    def p99_seconds(self) -> float:
        return p99_of(self.seconds)


def p99_of(values: Sequence[float]) -> float:
    """One that at most 1 % of them exceed."""
    return sorted(values)[int(0.99 * len(values))]


class FailedError(Exception):
    """An answer, but an error."""


class Connection:
    """To one pack."""

    def __init__(
        self, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.address = address
        self._reader = reader
        self._writer = writer

    @property
    def closed(self) -> bool:
        """Whether the server has ended it, as a client looks before it sends."""
        socket = self._writer.get_extra_info("socket")
        if self._writer.is_closing() or self._reader.at_eof() or socket.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(socket.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    async def ask(self, request: bytes) -> bool:
        """Whether the connection may be kept after the answer.

        Raises FailedError; OSError and EOFError where the answer did not come as a whole.
        """
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        _, _, rest = head.partition(b"content-length:")
        body = await self._reader.readexactly(int(rest.partition(b"\r\n")[0]))
        if not head.startswith(b"http/1.1 200 "):
            text = (head.partition(b"\r\n")[0] + b" " + body).decode(errors="replace")
            raise FailedError(text[:_DETAIL_CHARACTERS])
        if json.loads(body)["choices"][0]["finish_reason"] not in ("stop", "length"):
            raise FailedError(f"no finish_reason: {body.decode()[:_DETAIL_CHARACTERS]}")
        return b"connection: close" not in head

    def close(self) -> None:
        self._writer.close()


class Clients:
    """``number`` clients of the model ``model`` behind ``front``, that ask for so many tokens."""

    def __init__(self, front: Front, model: str, number: int, tokens: int = 1) -> None:
        self.count = Count()
        self._front = front
        self._number = number
        body = json.dumps({"model": model, "prompt": "Name three things.", "max_tokens": tokens})
        self._body = body.encode()
        self._leaving = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Count]:
        """At the end each client waits for its last answer."""
        tasks = [asyncio.create_task(self._run(keeps=n % 2 == 0)) for n in range(self._number)]
        try:
            yield self.count
            self._leaving = True
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def until_sent(self, requests: int) -> None:
        """Until so many requests were begun."""
        while self.count.sent < requests:  # noqa: ASYNC110 - an event for each would cost more
            await asyncio.sleep(POLL_SECONDS)

    async def _run(self, *, keeps: bool) -> None:
        kept: Connection | None = None
        while not self._leaving:
            self.count.sent += 1
            began = time.perf_counter()
            connection = await self._connection(kept)
            kept = None
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    may_keep = await connection.ask(self._request(connection.address, keeps))
            except FailedError as error:
                self.count.failed += 1
                self.count.causes[str(error)] += 1
                may_keep = False
            except (OSError, EOFError) as error:
                self.count.lost += 1
                self.count.causes[f"{error!r}"[:_DETAIL_CHARACTERS]] += 1
                may_keep = False
            else:
                self.count.completed += 1
                self.count.seconds.append(time.perf_counter() - began)
            if keeps and may_keep:
                kept = connection
            else:
                connection.close()
        if kept is not None:
            kept.close()

    async def _connection(self, kept: Connection | None) -> Connection:
        if kept is not None:
            if not kept.closed:
                return kept
            kept.close()
        while True:
            address = self._front.choose()
            try:
                if address is not None:
                    return Connection(address, *await asyncio.open_connection(address, ROUTER_PORT))
            except OSError as error:
                self.count.causes[f"not sent: {error.strerror}"] += 1
            else:
                self.count.causes["not sent: no pack is ready"] += 1
            self.count.retried += 1
            await asyncio.sleep(RETRY_SECONDS)

    def _request(self, address: str, keeps: bool) -> bytes:
        close = "" if keeps else "Connection: close\r\n"
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {address}\r\n{close}"
            f"Content-Type: application/json\r\nContent-Length: {len(self._body)}\r\n\r\n"
        )
        return head.encode() + self._body
