"""An activator between its operator, clients, and a service whose pack may run."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from prometheus_client.parser import text_string_to_metric_families

from slm_operator.activator.gatekeeper import Limits
from slm_operator.activator.server import Activator, Settings
from slm_operator.activator.wire import Held, Route
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Page

Headers = CIMultiDict[str]

HOST = "127.0.0.1"
TOKEN = "t" * 32
CHAT = "/v1/chat/completions"
BODY = {"model": "chat", "messages": [], "max_tokens": 4}
PIECES = [b"data: one\n\n", b"data: two\n\n", b"data: [DONE]\n\n"]
SOON = 5.0
HAPROXY_BUFFER_BYTES = 16 * 1024
"""Line and headers have to fit it."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@dataclass
class FakePack:
    """A router that answers by streaming; ``go_on`` lets it say its last pieces."""

    port: int = field(default_factory=free_port)
    seen: list[tuple[Headers, bytes]] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    """Of their request lines."""
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    breaks: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    """Of its answers, beside those that say what they are."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.targets.append(request.raw_path)
        self.seen.append((request.headers.copy(), await request.read()))
        own = {"Content-Type": "text/event-stream"}
        response = web.StreamResponse(headers=self.headers | own)
        await response.prepare(request)
        await response.write(PIECES[0])
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.left.set()
            raise
        if self.breaks:
            assert request.transport is not None
            request.transport.abort()
        for piece in PIECES[1:]:
            await response.write(piece)
        return response

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(
            app,
            handler_cancellation=True,
            shutdown_timeout=0.1,
            max_line_size=HAPROXY_BUFFER_BYTES,
            max_field_size=HAPROXY_BUFFER_BYTES,
        )
        await runner.setup()
        await web.TCPSite(runner, HOST, self.port).start()
        try:
            yield
        finally:
            await runner.cleanup()


@dataclass
class LargePack:
    """A router that answers with more than the sockets between two processes of a host keep."""

    port: int
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 << 20))
            try:
                for _ in range(64):
                    writer.write(bytes(1 << 20))
                    await writer.drain()
            except ConnectionError:
                self.left.set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with await asyncio.start_server(self.answer, HOST, self.port):
            yield


@dataclass
class SlowPack:
    """A router that takes nothing of a body until ``takes`` is set, answers none until ``go_on``
    is, and keeps nothing."""

    port: int
    takes: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            await self.takes.wait()
            left = int(head.split("content-length:")[1].split()[0])
            while left > 0:
                left -= len(await reader.read(1 << 16))
            await self.go_on.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self.answer, HOST, self.port)
        try:
            yield
        finally:
            self.takes.set()
            self.go_on.set()
            server.close()
            await server.wait_closed()


class Surroundings:
    """An activator, its operator, and a service whose pack may run."""

    def __init__(self, http: aiohttp.ClientSession, control: int, pack: FakePack) -> None:
        self.http, self.control, self.pack, self.port = http, control, pack, free_port()
        self.requests: list[asyncio.Task[tuple[int, Headers, bytes]]] = []

    async def call(
        self, method: str, path: str, body: str | None = None, token: str = TOKEN
    ) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {token}"}
        url = f"http://{HOST}:{self.control}{path}"
        async with self.http.request(method, url, data=body, headers=headers) as answer:
            return answer.status, await answer.text()

    async def route(self, *addresses: str, name: str = "chat") -> None:
        route = Route(namespace="default", name=name, addresses=addresses)
        status, text = await self.call("PUT", f"/v1/routes/{self.port}", route.model_dump_json())
        assert status == 200, text

    async def held(self) -> Held:
        return Held.model_validate_json((await self.call("GET", "/v1/held"))[1])

    async def counted(self, metric: str, **labels: str) -> float | None:
        """Of the service's metrics, which are shown without the token."""
        async with self.http.get(f"http://{HOST}:{self.control}/metrics") as answer:
            families = list(text_string_to_metric_families(await answer.text()))
        of = {"namespace": "default", "name": "chat"} | labels
        name = f"slm_activator_{metric}"
        found = [s.value for f in families for s in f.samples if (s.name, s.labels) == (name, of)]
        assert len(found) < 2
        return found[0] if found else None

    async def waiting(self, count: int) -> None:
        async with asyncio.timeout(SOON):
            while (await self.held()).doors[0].waiting != count:
                await asyncio.sleep(0.01)

    async def passing(self, count: int) -> None:
        async with asyncio.timeout(SOON):
            while (await self.held()).doors[0].passing != count:
                await asyncio.sleep(0.01)

    async def bodies(self, size: int) -> None:
        """Until so much of bodies is in the memory."""
        async with asyncio.timeout(SOON):
            while (await self.held()).doors[0].waiting_bytes != size:
                await asyncio.sleep(0.01)

    async def ask(
        self, path: str = CHAT, method: str = "POST", **arguments: Any
    ) -> tuple[int, Headers, bytes]:
        given: dict[str, Any] = {"json": BODY} if method == "POST" else {}
        url = f"http://{HOST}:{self.port}{path}"
        async with self.http.request(method, url, **(given | arguments)) as answer:
            return answer.status, answer.headers.copy(), await answer.read()

    @contextlib.asynccontextmanager
    async def beginning(
        self, text: str
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A client that has sent so much of a request."""
        reader, writer = await asyncio.open_connection(HOST, self.port)
        with contextlib.closing(writer):
            writer.write(text.encode())
            await writer.drain()
            async with asyncio.timeout(SOON):
                yield reader, writer

    def send(self, **arguments: Any) -> asyncio.Task[tuple[int, Headers, bytes]]:
        self.requests.append(asyncio.create_task(self.ask(**arguments)))
        return self.requests[-1]


@contextlib.asynccontextmanager
async def surroundings(total_bytes: int = 1 << 20, **limits: Any) -> AsyncIterator[Surroundings]:
    pack, control = FakePack(), free_port()
    settings = Settings(
        TOKEN, HOST, control, Limits(**limits), total_bytes=total_bytes, router_port=pack.port
    )
    async with aiohttp.ClientSession() as http, Activator(settings):
        world = Surroundings(http, control, pack)
        await world.route()
        try:
            yield world
        finally:
            for request in world.requests:
                request.cancel()
            await asyncio.gather(*world.requests, return_exceptions=True)


class Namespaces:
    """An API server that lists services of namespaces with their ports, but for hidden ones."""

    def __init__(self, hidden: set[str], **ports: dict[str, int]) -> None:
        self.hidden, self.ports = hidden, ports
        self.asked: list[str] = []

    async def pages(self, api: str, kind: str, namespace: str) -> AsyncIterator[Page]:
        self.asked.append(namespace)
        if namespace in self.hidden:
            raise KubeError(403, "Forbidden", "no")
        found = self.ports.get(namespace, {}).items()
        yield Page([{"metadata": {"uid": u}, "status": {"activatorPort": p}} for u, p in found], "")
