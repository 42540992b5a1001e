"""The least HTTP that a benchmark needs, so that its own cost does not hide the router's.

Server and client speak HTTP/1.1 with one small JSON body each way, over asyncio protocols.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

_BODY = b'{"choices": [{"text": "' + b"x" * 512 + b'"}]}'
_ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % len(_BODY) + _BODY
)
_PROMPT = b'{"model": "m", "prompt": "' + b"y" * 512 + b'"}'
_REQUEST = (
    b"POST /v1/completions HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % len(_PROMPT) + _PROMPT
)


class _EngineConnection(asyncio.Protocol):
    """Answers each request ``service_seconds`` after it arrived whole."""

    def __init__(self, service_seconds: float) -> None:
        self._service_seconds = service_seconds
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._received.endswith(_PROMPT):
            return
        self._received = b""
        if self._service_seconds:
            asyncio.get_running_loop().call_later(self._service_seconds, self._answer)
        else:
            self._answer()

    def _answer(self) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.write(_ANSWER)


async def serve(port: int, service_seconds: float) -> None:
    """Serve on loopback until cancelled."""
    server = await asyncio.get_running_loop().create_server(
        lambda: _EngineConnection(service_seconds), "127.0.0.1", port, backlog=1024
    )
    await server.serve_forever()


@dataclass(frozen=True)
class Burst:
    """What one burst of requests saw."""

    latencies_seconds: list[float]
    wall_seconds: float

    @property
    def per_second(self) -> float:
        return len(self.latencies_seconds) / self.wall_seconds


async def burst(port: int, connections: int, requests: int) -> Burst:
    """Send ``requests`` over ``connections`` kept-alive connections, each busy all the time."""
    left = requests
    latencies: list[float] = []

    async def client() -> None:
        nonlocal left
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while left > 0:
            left -= 1
            began = time.perf_counter()
            writer.write(_REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            await reader.readexactly(len(_BODY))
            latencies.append(time.perf_counter() - began)
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(connections)))
    return Burst(latencies, time.perf_counter() - began)


async def paced(host: str, port: int, connections: int, per_second: float, seconds: float) -> int:
    """Send requests at even intervals for so long, each over the next free connection; answers
    how many were answered. A server that does not keep up gets them later, not at once."""
    free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(connections):
        free.put_nowait(await asyncio.open_connection(host, port))
    answered = 0

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answered
        writer.write(_REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        await reader.readexactly(len(_BODY))
        answered += 1
        free.put_nowait((reader, writer))

    began = time.monotonic()
    due_seconds = 0.0
    async with asyncio.TaskGroup() as asking:
        while per_second and due_seconds < seconds:
            await asyncio.sleep(began + due_seconds - time.monotonic())
            asking.create_task(ask(*await free.get()))
            due_seconds += 1 / per_second
        await asyncio.sleep(began + seconds - time.monotonic())
    while not free.empty():
        free.get_nowait()[1].close()
    return answered
