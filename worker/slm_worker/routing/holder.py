"""Holds requests while no replica takes any, so that they wait instead of failing.

HAProxy queues requests only for a backend that has a usable server. While no replica is in
rotation, that server is the holder, on a unix socket in the agent: each backend hands it one
request and queues the rest. Once a replica is admitted HAProxy sends it the queue, and the holder
relays what it has through the router's relay socket and streams the answer back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from slm_worker.routing.answers import NO_REPLICA, RETRY_SOON_SECONDS
from slm_worker.routing.config import (
    HOLD_SOCKET,
    MAX_HEADER_BYTES,
    MAX_REQUEST_BYTES,
    RELAY_SOCKET,
)

logger = logging.getLogger(__name__)

_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "expect")
)
CLOSE_SECONDS = 1.0


class Holder:
    """Serves the hold socket. ``open()`` lets requests pass, ``close()`` makes them wait.

    A request waits until ``hold_timeout_seconds`` after the last ``close()``, and is answered 503
    then; after that moment 503 comes at once, until a replica is ready. ``refuse()`` is for the
    end: nothing waits after it.
    """

    def __init__(self, *, run_dir: Path, hold_timeout_seconds: float) -> None:
        self._run_dir = run_dir
        self._hold_timeout_seconds = hold_timeout_seconds
        self._opened = asyncio.Event()
        self._refuses = False
        self._closed_at = 0.0
        self._runner: web.AppRunner | None = None
        self._relay: aiohttp.ClientSession | None = None
        self.waiting = 0
        """Requests that wait here: at most one of each backend that balances."""

    async def start(self) -> None:
        self._closed_at = asyncio.get_running_loop().time()
        self._relay = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=str(self._run_dir / RELAY_SOCKET)),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )
        app = web.Application(client_max_size=MAX_REQUEST_BYTES)
        app.router.add_route("*", "/{path:.*}", self._hold)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=CLOSE_SECONDS,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )
        await self._runner.setup()
        socket_path = self._run_dir / HOLD_SOCKET
        await web.UnixSite(self._runner, str(socket_path)).start()
        socket_path.chmod(0o600)

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._relay is not None:
            await self._relay.close()
            self._relay = None

    def open(self) -> None:
        self._opened.set()

    def close(self) -> None:
        if self._opened.is_set() and not self._refuses:
            self._opened.clear()
            self._closed_at = asyncio.get_running_loop().time()

    def refuse(self) -> None:
        """Answer 503 from now on: no replica will be admitted any more."""
        self._refuses = True
        self.open()

    async def _hold(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.waiting += 1
        try:
            async with asyncio.timeout_at(self._closed_at + self._hold_timeout_seconds):
                await self._opened.wait()
        except TimeoutError:
            return _unavailable()
        finally:
            self.waiting -= 1
        if self._refuses:
            return _unavailable()
        return await self._pass_on(request, body)

    async def _pass_on(self, request: web.Request, body: bytes) -> web.StreamResponse:
        assert self._relay is not None  # noqa: S101 - handlers run between start and stop
        url = f"http://router{request.raw_path}"
        headers = _end_to_end(request.headers)
        answer = web.StreamResponse()
        try:
            async with self._relay.request(
                request.method, url, headers=headers, data=body, allow_redirects=False
            ) as upstream:
                answer.set_status(upstream.status, upstream.reason)
                answer.headers.update(_end_to_end(upstream.headers))
                await answer.prepare(request)
                async for chunk in upstream.content.iter_any():
                    await answer.write(chunk)
        except aiohttp.ClientError as error:
            logger.warning("a held request failed: %s", error)
            if not answer.prepared:
                return _unavailable()
            if request.transport is not None:
                request.transport.abort()  # so that a cut stream does not look complete
        return answer


def _end_to_end(headers: Mapping[str, str]) -> CIMultiDict[str]:
    return CIMultiDict((k, v) for k, v in headers.items() if k.lower() not in _HOP_BY_HOP)


def _unavailable() -> web.Response:
    return web.Response(
        status=503,
        text=NO_REPLICA,
        content_type="application/json",
        headers={"Retry-After": str(RETRY_SOON_SECONDS)},
    )
