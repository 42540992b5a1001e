"""The activator's HTTP: its control API, and one port for each service."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError

from slm_operator.activator.gatekeeper import (
    MAX_HEADER_BYTES,
    MAX_REQUEST_BYTES,
    Gatekeeper,
    Limits,
    open_session,
)
from slm_operator.activator.metrics import ActivatorMetrics
from slm_operator.activator.room import Room
from slm_operator.activator.wire import (
    CANNOT_OPEN,
    CONTROL_PORT,
    HELD_PATH,
    ROUTES_PATH,
    Door,
    Held,
    Route,
    Wire,
)
from slm_worker.wire import ROUTER_PORT

HEALTH_PATH = "/healthz"
METRICS_PATH = "/metrics"
OPEN_PATHS = (HEALTH_PATH, METRICS_PATH)
"""They need no token and tell no secret."""
CONTROL_BYTES = 64 * 1024
IDLE_SECONDS = 120.0
"""How long a connection that waits for a request, or for the rest of its headers, stays open: as
the packs' routers keep those that are idle, so that the client is the one who closes."""
FINISH_SECONDS = 25.0
"""What answers that have begun may take when the process is to end, within a Pod's usual 30 s."""
TOTAL_SENDERS_FACTOR = 4
"""So many times as many clients as of one service may be within their bodies, whatever service they
are for. With headers as large as they may be each takes some 50 KiB of memory."""


@dataclass(frozen=True)
class Settings:
    """How this activator was started."""

    token: str
    address: str = ""
    """Of every family by default: requests come from the nodes."""
    control_port: int = CONTROL_PORT
    limits: Limits = field(default_factory=Limits)
    total_bytes: int = 256 * 1024 * 1024
    """Of the bodies of all requests that wait or that a pack is taking, whatever service they are
    for."""
    router_port: int = ROUTER_PORT


@dataclass(frozen=True)
class _Opened:
    keeper: Gatekeeper
    runner: web.AppRunner


class Activator:
    """An asynchronous context manager: it serves while it is entered."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._whole = Room(
            None, settings.total_bytes, TOTAL_SENDERS_FACTOR * settings.limits.requests
        )
        self._open: dict[int, _Opened] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._metrics = ActivatorMetrics(self._doors)
        self._resources = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Activator:
        async with contextlib.AsyncExitStack() as stack:
            self._http: aiohttp.ClientSession = await stack.enter_async_context(open_session())
            stack.push_async_callback(self._close_all)
            app = web.Application(
                client_max_size=CONTROL_BYTES, middlewares=[_bearer(self._settings.token)]
            )
            app.router.add_get(HEALTH_PATH, _healthz)
            app.router.add_get(METRICS_PATH, self._show)
            app.router.add_get(HELD_PATH, self._held)
            app.router.add_put(f"{ROUTES_PATH}/{{port:[0-9]{{1,5}}}}", self._put_route)
            app.router.add_delete(f"{ROUTES_PATH}/{{port:[0-9]{{1,5}}}}", self._delete_route)
            runner = await self._serve(app, self._settings.control_port)
            stack.push_async_callback(runner.cleanup)
            self._resources = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        """What waits is refused, what has begun ends."""
        await self._resources.aclose()

    async def _serve(self, app: web.Application, port: int) -> web.AppRunner:
        runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=FINISH_SECONDS,
            keepalive_timeout=IDLE_SECONDS,
            # A body would be larger than it counts, and another one than its headers say.
            auto_decompress=False,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self._settings.address, port).start()
        except OSError:
            await runner.cleanup()
            raise
        return runner

    async def _close_all(self) -> None:
        for opened in self._open.values():
            opened.keeper.refuse()
        await asyncio.gather(
            *(opened.runner.cleanup() for opened in self._open.values()), *self._closing
        )

    async def _held(self, _: web.Request) -> web.Response:
        return _answer(Held(doors=self._doors()))

    async def _show(self, _: web.Request) -> web.Response:
        text = generate_latest(self._metrics.registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _doors(self) -> tuple[Door, ...]:
        return tuple(one.keeper.state(port) for port, one in sorted(self._open.items()))

    async def _put_route(self, request: web.Request) -> web.Response:
        port = int(request.match_info["port"])
        try:
            route = Route.model_validate_json(await request.read())
        except ValidationError as error:
            return web.Response(status=422, text=f"no route: {error}")
        opened = self._open.get(port)
        if opened is not None:
            opened.keeper.lead(route)
            return _answer(opened.keeper.state(port))
        settings = self._settings
        app = web.Application(client_max_size=MAX_REQUEST_BYTES)
        keeper = Gatekeeper(
            route, settings.limits, self._whole, self._http, self._metrics, settings.router_port
        )
        app.router.add_route("*", "/{path:.*}", keeper.serve)
        try:
            runner = await self._serve(app, port)
        except (OSError, OverflowError) as error:
            keeper.closed()
            text = f"port {port} cannot be opened ({error}): use another range of ports"
            return web.Response(status=CANNOT_OPEN, text=text)
        self._open[port] = _Opened(keeper, runner)
        return _answer(keeper.state(port))

    async def _delete_route(self, request: web.Request) -> web.Response:
        opened = self._open.pop(int(request.match_info["port"]), None)
        if opened is not None:
            opened.keeper.refuse()
            opened.keeper.closed()
            closing = asyncio.create_task(opened.runner.cleanup())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        return web.Response(status=204)


async def _healthz(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")


def _answer(said: Wire) -> web.Response:
    return web.Response(text=said.model_dump_json(), content_type="application/json")


def _bearer(token: str) -> Middleware:
    wanted = f"Bearer {token}".encode()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if request.path in OPEN_PATHS or hmac.compare_digest(given, wanted):
            return await handler(request)
        return web.Response(
            status=401,
            text="send the activator's token: Authorization: Bearer <token>",
            headers={"WWW-Authenticate": "Bearer"},
        )

    return check
