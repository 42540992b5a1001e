"""A way to the API server that a test can break, and that notes what goes through."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

READING = ("GET", "HEAD", "OPTIONS")
MAX_BODY_BYTES = 4 * 1024 * 1024

Fault = Callable[[web.Request], Awaitable[web.Response | None]]
"""What is answered instead of asking the API server; None: it is asked."""


async def nothing(_: web.Request) -> web.Response | None:
    return None


def refuses(status: int, reason: str, **headers: str) -> Fault:
    """Every request is answered so."""

    async def refuse(_: web.Request) -> web.Response | None:
        body = {"kind": "Status", "code": status, "reason": reason, "message": "by the test"}
        return web.json_response(
            body, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )

    return refuse


async def hangs_up(request: web.Request) -> web.Response | None:
    """The connection is closed without an answer."""
    if request.transport is not None:
        request.transport.close()
    return web.Response()


async def forgets(request: web.Request) -> web.Response | None:
    """Every watch is told that its version is too old."""
    return await refuses(410, "Expired")(request) if "watch" in request.query else None


def slow(seconds: float) -> Fault:
    async def wait(_: web.Request) -> web.Response | None:
        await asyncio.sleep(seconds)
        return None

    return wait


@dataclass
class ApiProxy:
    """``fault`` holds for requests that begin while it is set."""

    kubeconfig: Path
    fault: Fault = nothing
    writes: list[str] = field(default_factory=list)
    """Method and path of each that was begun."""
    disturbed: int = 0
    """Requests that met a fault or a cut."""
    _open: asyncio.Event = field(default_factory=asyncio.Event)
    _running: set[asyncio.Task[object]] = field(default_factory=set)

    def cut(self) -> None:
        """Nothing goes through any more in either direction, and no connection is closed."""
        self._open.clear()

    def mend(self) -> None:
        self._open.set()

    def drop(self) -> None:
        """Ends every request that is under way, watches among them."""
        for task in self._running:
            task.cancel()

    async def handle(
        self, upstream: aiohttp.ClientSession, request: web.Request
    ) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            if request.method not in READING:
                self.writes.append(f"{request.method} {request.path}")
            self.disturbed += self.fault is not nothing or not self._open.is_set()
            await self._open.wait()
            instead = await self.fault(request)
            if instead is not None:
                return instead
            return await self._forward(upstream, request)
        finally:
            self._running.discard(task)

    async def _forward(
        self, upstream: aiohttp.ClientSession, request: web.Request
    ) -> web.StreamResponse:
        kept = ("Authorization", "Content-Type", "Accept")
        headers = {name: request.headers[name] for name in kept if name in request.headers}
        try:
            async with upstream.request(
                request.method, request.path_qs, data=await request.read() or None, headers=headers
            ) as answer:
                response = web.StreamResponse(status=answer.status)
                response.content_type = answer.content_type
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await self._open.wait()
                    await response.write(chunk)
                return response
        except aiohttp.ClientError as error:
            return web.Response(status=502, text=str(error))


@asynccontextmanager
async def api_proxy(kubeconfig: Path, folder: Path) -> AsyncIterator[ApiProxy]:
    """A proxy in front of the API server of ``kubeconfig``, for the same user."""
    config = json.loads(kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    trust = ssl.create_default_context(cafile=cluster["certificate-authority"])
    proxy = ApiProxy(folder / "proxy-kubeconfig")
    proxy.mend()
    async with aiohttp.ClientSession(
        cluster["server"],
        connector=aiohttp.TCPConnector(limit=0, ssl=trust),
        timeout=aiohttp.ClientTimeout(total=None),
    ) as upstream:

        async def handle(request: web.Request) -> web.StreamResponse:
            return await proxy.handle(upstream, request)

        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            port = runner.addresses[0][1]
            config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{port}"}
            proxy.kubeconfig.write_text(json.dumps(config))
            yield proxy
        finally:
            proxy.drop()
            await runner.cleanup()
