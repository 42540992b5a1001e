"""One port of the activator: holds a service's requests while it has no pack, and passes them on.

A request waits until a pack is ready; then it counts as passing. Its body is kept until the pack
has taken it. Only what reached no pack is sent again: a pack that took no connection has seen
nothing of it. A Service leads only new connections elsewhere, so each answer that is passed on ends
its connection: the client's next request finds the packs.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from dataclasses import dataclass

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from slm_operator.activator import answers
from slm_operator.activator.body import Body
from slm_operator.activator.metrics import ActivatorMetrics, Owner, Refusal
from slm_operator.activator.room import Room
from slm_operator.activator.wire import Door, Route
from slm_worker.wire import ROUTER_PORT

log = logging.getLogger(__name__)

WAITING_PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/tokenize",
    "/detokenize",
)
"""A POST to one of them starts a pack. Probes and listings do not, else monitoring alone would keep
a GPU busy for ever; neither does what no pack serves."""
MAX_REQUEST_BYTES = 16 * 1024 * 1024
MAX_HEADER_BYTES = 16 * 1024
"""As the packs' routers have them."""
REQUEST_ID = "X-Request-Id"
RETRY_SECONDS = 0.5
"""Until another try when a pack that is said to be ready takes no connection."""
UNREAD_SECONDS = 60.0
"""As the packs' routers have it. A client that takes less than a socket buffer of its answer in it
is cut, since what passes keeps its service's packs. A full socket has room again only once a good
part of that was taken, so one that takes little but steadily looks like one that takes nothing."""
PACK_SILENCE_SECONDS = 7260.0
"""More than a pack that runs is ever silent: a request may wait an hour in its router's queue, and
its engine may think for another. Else a pack whose node is lost would be waited for for ever."""

NOTHING_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_HOP_BY_HOP = frozenset(
    (
        "connection",
        "expect",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
"""And those that Connection names (RFC 9110, 7.6.1)."""


@dataclass(frozen=True)
class Limits:
    """What one service may let wait."""

    requests: int = 1000
    """And as many more may be within their bodies at a time."""
    bytes: int = 64 * 1024 * 1024
    """Of their bodies, and of those that a pack is taking."""
    seconds: float = 300.0
    """Until a pack is ready, which takes seconds to minutes, an image or a model that has to be
    fetched included. So long may a body take too."""


class Gatekeeper:
    """Serves one port, for the service that its route names."""

    def __init__(
        self,
        route: Route,
        limits: Limits,
        whole: Room,
        http: aiohttp.ClientSession,
        metrics: ActivatorMetrics,
        router_port: int = ROUTER_PORT,
    ) -> None:
        """``whole``: of all ports together."""
        self.route = route
        self._limits = limits
        self._max_request_bytes = min(MAX_REQUEST_BYTES, limits.bytes, whole.max_bytes)
        """What has no room beside nothing else is too large, and no client is to try it again."""
        self._room = Room(limits.requests, limits.bytes, limits.requests, part_of=whole)
        self._http = http
        self._metrics = metrics
        metrics.show(self._owner)
        self._router_port = router_port
        self._turn = itertools.count()
        self._passing = 0
        self._refuses = False
        self._changed = asyncio.Event()

    def lead(self, route: Route) -> None:
        """Requests go where ``route`` says, those that wait among them. A route of another service
        refuses what waits for the one before."""
        before = self._owner
        self.route = route
        if before != self._owner:
            self._metrics.forget(before)
            self._metrics.show(self._owner)
        self._wake()

    def refuse(self) -> None:
        """For the end: nothing waits after it."""
        self._refuses = True
        self._wake()

    def closed(self) -> None:
        self._metrics.forget(self._owner)

    def state(self, port: int) -> Door:
        return Door(
            port=port,
            route=self.route,
            waiting=self._room.requests,
            passing=self._passing,
            waiting_bytes=self._room.bytes,
        )

    async def serve(self, request: web.Request) -> web.StreamResponse:
        answer = await self._serve(request)
        if not answer.prepared and REQUEST_ID in request.headers:
            answer.headers[REQUEST_ID] = request.headers[REQUEST_ID]
        return answer

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        owner = self._owner
        # Written as the packs' routers want it: another spelling they would refuse.
        may_wait = request.method == "POST" and request.rel_url.raw_path in WAITING_PATHS
        if not self.route.addresses and not may_wait:
            return self._refused(owner, "Asleep", answers.asleep())
        if _header_bytes(request) > MAX_HEADER_BYTES:
            answer = answers.headers_too_large(MAX_HEADER_BYTES)
            return self._refused(owner, "TooLarge", answer)
        length = request.content_length
        if length is None:
            if request.body_exists:
                return self._refused(owner, "LengthRequired", answers.length_required())
            length = 0
        if length > self._max_request_bytes:
            return self._refused(owner, "TooLarge", answers.too_large(self._max_request_bytes))
        if self._refuses:
            return self._refused(owner, "NoPack", answers.no_pack())
        if not self._room.fits(length):
            return self._refused(owner, "Full", answers.full())
        body = Body(self._room)
        try:
            try:
                async with asyncio.timeout(self._limits.seconds):
                    whole = await body.read(request)
            except TimeoutError:
                return self._refused(owner, "BodyTimeout", answers.not_sent())
            # Only now, since what waits starts a pack.
            if not (whole and self._room.enter()):
                return self._refused(owner, "Full", answers.full())
            return await self._hold(request, owner, body)
        finally:
            body.drop()

    async def _hold(self, request: web.Request, owner: Owner, body: Body) -> web.StreamResponse:
        clock = asyncio.get_running_loop().time
        began_at = clock()
        ends_at = began_at + self._limits.seconds
        while True:
            try:
                async with asyncio.timeout_at(ends_at):
                    if clock() >= ends_at:
                        # A timeout cuts only what waits, and a pack said to be ready is not waited
                        # for: one that takes no connection would be tried for ever.
                        raise TimeoutError
                    address = await self._address(owner)
            except TimeoutError:
                return self._refused(owner, "NoPack", answers.no_pack())
            except asyncio.CancelledError:
                self._metrics.left(owner)
                raise
            finally:
                self._room.wait_no_longer()
            if address is None:
                return self._refused(owner, "NoPack", answers.no_pack())
            self._passing += 1
            waited_seconds = clock() - began_at
            try:
                return await self._pass_on(request, body, address, owner, waited_seconds)
            except NOTHING_SENT as error:
                log.warning("%s/%s: no connection to %s: %s", *owner, address, error)
            finally:
                self._passing -= 1
            self._room.wait_again()
            try:
                async with asyncio.timeout(RETRY_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                pass
            except asyncio.CancelledError:
                self._room.wait_no_longer()
                self._metrics.left(owner)
                raise

    @property
    def _owner(self) -> Owner:
        return self.route.namespace, self.route.name

    async def _address(self, owner: tuple[str, str]) -> str | None:
        """Of a ready pack, each in its turn; None when nothing is to wait any more."""
        while not (self._refuses or self._owner != owner or self.route.addresses):
            await self._changed.wait()
        if self._refuses or self._owner != owner:
            return None
        return self.route.addresses[next(self._turn) % len(self.route.addresses)]

    async def _pass_on(
        self,
        request: web.Request,
        body: Body,
        address: str,
        owner: Owner,
        waited_seconds: float,
    ) -> web.StreamResponse:
        """Raises one of NOTHING_SENT."""
        host = f"[{address}]" if ":" in address else address
        # Spelled as it came, so that the pack's router judges what the client asked for.
        target = request.rel_url.raw_path_qs
        answer = web.StreamResponse()
        answer.force_close()
        try:
            async with self._http.request(
                request.method,
                URL(f"http://{host}:{self._router_port}{target}", encoded=True),
                headers=_end_to_end(request.headers),
                data=body.sending(),
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
                allow_redirects=False,
            ) as upstream:
                self._metrics.released(owner, waited_seconds)
                answer.set_status(upstream.status, upstream.reason)
                answer.headers.update(_end_to_end(upstream.headers))
                await answer.prepare(request)
                async for chunk in upstream.content.iter_any():
                    async with asyncio.timeout(UNREAD_SECONDS):
                        await answer.write(chunk)
        except NOTHING_SENT:
            raise
        except aiohttp.ClientError as error:
            log.warning("%s/%s: %s", *self._owner, error)
            if not answer.prepared:
                return self._refused(owner, "Broken", answers.broken())
            _cut(request)
        except TimeoutError:
            log.warning("%s/%s: a client that takes too little of its answer is cut", *self._owner)
            _cut(request)
        return answer

    def _refused(self, owner: Owner, reason: Refusal, answer: web.Response) -> web.Response:
        self._metrics.refused(owner, reason)
        return answer

    def _wake(self) -> None:
        """Everybody who waits looks once."""
        self._changed.set()
        self._changed = asyncio.Event()


def open_session() -> aiohttp.ClientSession:
    """For the requests that are passed on. Each has a connection of its own: on one that a pack
    has just closed, nobody could tell whether the request was taken."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=PACK_SILENCE_SECONDS),
        auto_decompress=False,
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
    )


def _header_bytes(request: web.Request) -> int:
    fields = sum(len(f"{name}: {value}\r\n") for name, value in request.headers.items())
    return len(f"{request.method} {request.raw_path} HTTP/1.1\r\n") + fields


def _cut(request: web.Request) -> None:
    """So that the answer does not look complete."""
    if request.transport is not None:
        request.transport.abort()


def _end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    options = ",".join(headers.getall("Connection", [])).lower().split(",")
    ends_here = _HOP_BY_HOP.union(option.strip() for option in options)
    return CIMultiDict((k, v) for k, v in headers.items() if k.lower() not in ends_here)
