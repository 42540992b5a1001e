"""The operator's side of the activator: whose its ports are, where packs are, and what waits."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
from pydantic import ValidationError

from slm_operator.activator.wire import CANNOT_OPEN, HELD_PATH, ROUTES_PATH, Door, Held, Route
from slm_operator.api.models import SLMService
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Kube
from slm_operator.cluster.ports import Ports
from slm_operator.decide.snapshot import Activation, Pack, Trouble

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""Between two looks at what waits; a request wakes its service so much later at most."""
HIDDEN_SECONDS = 5.0
"""Between two tries to learn the ports of namespaces that cannot be read, which may be for good."""
REFUSED_SECONDS = 5.0
"""Between two passes for the sake of a route that was refused, which may be for good."""
PATIENCE = aiohttp.ClientTimeout(total=5.0, sock_connect=2.0)
SILENCE_SECONDS = 15.0
"""An activator that is started anew answers sooner; until then no pack is started for its sake."""


class ActivatorError(Exception):
    def __init__(self, reason: str, message: str, status: int | None = None) -> None:
        """``status``: of an answer."""
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.status = status


@dataclass(frozen=True)
class _Known:
    namespace: str
    name: str
    port: int
    route: Route


@dataclass(frozen=True)
class _Refusal:
    """The activator, or a proxy before it, answered with an error to a route."""

    route: Route
    since_seconds: float
    last_seconds: float


class ActivatorClient:
    """One for all services. What it asks for is what passes want; looks only find differences."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        url: str,
        token: str,
        ports: Ports,
        address: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``address``: by which the cluster's nodes reach it; by default what the URL's host is
        resolved to."""
        self._http = http
        self._given_address = address
        self._url = url.rstrip("/")
        self._token = token
        self._ports = ports
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._doors: dict[int, Door] = {}
        self._refusals: dict[int, _Refusal] = {}
        """By port, until a route is taken."""
        self._address = ""
        self._answered_at = clock()
        """When it last said what an activator says: one that refuses holds nothing."""
        self._was_silent = False
        """At the last look."""
        self._trouble: Trouble | None = None

    async def follow(
        self, kube: Kube, wake: Callable[[str, str], None], namespaces: Sequence[str] = ()
    ) -> None:
        """Runs for ever; ``wake`` is told each service for which something has changed. Without
        ``namespaces`` the services of all are its own."""
        learn_at = self._clock()
        while True:
            if not self._ports.all_known and self._clock() >= learn_at:
                try:
                    await self._ports.learn(kube, namespaces)
                    learn_at = self._clock() + HIDDEN_SECONDS
                except KubeError as error:
                    log.warning("which ports of the activator are taken is not known: %s", error)
            if self._known:
                for one in await self._look():
                    wake(one.namespace, one.name)
            await asyncio.sleep(LOOK_SECONDS)

    async def activation(self, service: SLMService, packs: Sequence[Pack]) -> Activation | None:
        """For one pass: tells the activator where the service's requests go now. It goes on being
        told of a service that no longer scales to zero: requests may wait there, and clients keep
        their connections."""
        if not service.scales_to_zero and service.status.activator_port is None:
            self._known.pop(service.uid, None)
            return None
        self._ports.saw(service.uid, service.status.activator_port)
        port = self._ports.of(service.uid)
        if port is None:
            self._known.pop(service.uid, None)
            return Activation(None, self._address, trouble=self._ports.trouble, lastingly=False)
        serving = (p.address for p in packs if p.ready and not p.terminating and p.address)
        route = Route(
            namespace=service.namespace, name=service.name, addresses=tuple(sorted(serving))
        )
        self._known[service.uid] = _Known(service.namespace, service.name, port, route)
        trouble, refused = self._trouble, False
        door = self._doors.get(port)
        if door is None or door.route != route:
            try:
                door = await self._put(port, route)
            except ActivatorError as error:
                trouble = Trouble(error.reason, error.message)
                refused = door is None and self._stays_closed(port, error)
        return Activation(
            port=port,
            address=self._address,
            held=door.waiting + door.passing if door is not None else 0,
            trouble=trouble,
            lastingly=not (self._silent or refused),
        )

    async def forget(self, uid: str, *, keeps_port: bool = False) -> None:
        """Of a service that is gone: what waits for it is refused. Its port is free, unless slices
        that stay lead clients there, who must not come to another service."""
        if not keeps_port:
            self._ports.forget(uid)
        known = self._known.pop(uid, None)
        if known is None:
            return
        self._doors.pop(known.port, None)
        self._refusals.pop(known.port, None)
        try:
            await self._call("DELETE", f"{ROUTES_PATH}/{known.port}")
        except ActivatorError as error:
            # The port's next owner takes it over.
            log.warning("%s/%s: its port is not closed: %s", known.namespace, known.name, error)

    async def _look(self) -> list[_Known]:
        """Services for which a request began to wait, or whose route is not what it should be."""
        address, was_silent = self._address, self._was_silent
        known = list(self._known.values())
        try:
            held = await self._held()
        except ActivatorError as error:
            if self._trouble is None:
                log.warning("the activator: %s", error)
            self._trouble = Trouble(error.reason, error.message)
            self._was_silent = self._silent
            return known if self._silent != was_silent else []
        self._was_silent = False
        recovered, self._trouble = self._trouble is not None, None
        before, self._doors = self._doors, {door.port: door for door in held.doors}
        if recovered or self._address != address:
            return known
        return [one for one in known if self._is_news(one, before.get(one.port))]

    def _is_news(self, one: _Known, before: Door | None) -> bool:
        door = self._doors.get(one.port)
        if door is None or door.route != one.route:
            refusal = self._refusals.get(one.port)
            if refusal is None or refusal.route != one.route:
                return True
            return self._clock() - refusal.last_seconds >= REFUSED_SECONDS
        return door.waiting > 0 and (before is None or before.waiting == 0)

    def _stays_closed(self, port: int, error: ActivatorError) -> bool:
        """Other errors than that the port cannot be opened may be over in a moment."""
        if error.status == CANNOT_OPEN:
            return True
        refusal = self._refusals.get(port)
        return refusal is not None and self._clock() - refusal.since_seconds >= SILENCE_SECONDS

    @property
    def _silent(self) -> bool:
        return self._clock() - self._answered_at >= SILENCE_SECONDS

    async def _held(self) -> Held:
        try:
            held = Held.model_validate_json(await self._call("GET", HELD_PATH))
        except ValidationError as error:
            raise _unreadable() from error
        self._answered_at = self._clock()
        return held

    async def _put(self, port: int, route: Route) -> Door:
        try:
            text = await self._call("PUT", f"{ROUTES_PATH}/{port}", route.model_dump_json())
        except ActivatorError as error:
            if error.status is not None:
                now, before = self._clock(), self._refusals.get(port)
                since = now if before is None else before.since_seconds
                self._refusals[port] = _Refusal(route, since, now)
            raise
        self._refusals.pop(port, None)
        try:
            door = self._doors[port] = Door.model_validate_json(text)
        except ValidationError as error:
            raise _unreadable() from error
        self._answered_at = self._clock()
        return door

    async def _call(self, method: str, path: str, body: str | None = None) -> str:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        try:
            self._address = self._given_address or await _resolved(self._url)
            async with self._http.request(
                method,
                f"{self._url}{path}",
                data=body,
                headers=headers,
                allow_redirects=False,
                timeout=PATIENCE,
            ) as answer:
                text = await answer.text(errors="replace")
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise ActivatorError(
                "ActivatorUnreachable",
                f"the activator at {self._url} does not answer ({type(error).__name__}): see that "
                "slm-activator runs there",
            ) from error
        if answer.status == 401:
            raise ActivatorError(
                "ActivatorRefusedToken",
                f"the activator at {self._url} refused the operator's token: start both with the "
                "same SLM_ACTIVATOR_TOKEN",
            )
        if answer.status >= 300:
            raise ActivatorError(
                "ActivatorRefused",
                f"the activator answered {answer.status}: {text[:200]}",
                answer.status,
            )
        return text


def _unreadable() -> ActivatorError:
    return ActivatorError(
        "ActivatorUnreachable",
        "it answers something else than it should: run operator and activator of one release",
    )


async def _resolved(url: str) -> str:
    """The address that an EndpointSlice can name. Raises OSError, and ValueError where the URL is
    none."""
    where = urlsplit(url)
    found = await asyncio.get_running_loop().getaddrinfo(
        where.hostname, where.port, type=socket.SOCK_STREAM
    )
    return str(found[0][4][0])
