"""Requests to the API server: how many at a time, how long they may take, what a refusal says."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp
from kubernetes.aio import client

ANYTHING = "application/json, */*"
TIMEOUT_SECONDS = 15.0
IN_FLIGHT = 16
"""Requests that are under way at a time. More do not make an API server faster: one that is busy
answers all of them after their timeout, having worked for nobody. With answers after 20 ms it is
800 a second."""
MOST_RETRY_AFTER_SECONDS = 15.0
"""What asks to be left alone for longer is asked again even so, to notice when that is over."""


@dataclass(frozen=True)
class Request:
    """What the API server is asked, at the path ``where``."""

    method: str
    where: str
    body: Mapping[str, Any] | None = None
    query: Sequence[tuple[str, str]] = ()
    content_type: str = "application/json"
    accept: str = ANYTHING

    @property
    def asked(self) -> str:
        """As messages name it."""
        return f"{self.method} {self.where}"


class KubeError(Exception):
    """The API server refused or did not answer. ``status`` is 0 when no answer came.
    ``retry_after_seconds``: how long it asked to be left alone (Retry-After)."""

    def __init__(
        self, status: int, reason: str, message: str, retry_after_seconds: float = 0.0
    ) -> None:
        super().__init__(f"{reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_seconds = retry_after_seconds

    @property
    def is_refusal(self) -> bool:
        """Whether the API server said no to what it was sent, rather than being away or busy."""
        return 400 <= self.status < 500 and self.status != HTTPStatus.TOO_MANY_REQUESTS

    @property
    def shuts_out(self) -> bool:
        """Whether the place that was asked about is not there, or none that may be looked at."""
        return self.status in (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)


class Connection:
    """Every request raises KubeError."""

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api
        self._turns = asyncio.Semaphore(IN_FLIGHT)

    async def close(self) -> None:
        await self._api.close()

    async def call(self, request: Request) -> dict[str, Any]:
        """The answer, a JSON object."""
        text = await self.text(request)
        try:
            answered = json.loads(text)
        except ValueError:
            answered = None
        if not isinstance(answered, dict):
            raise foreign(request.asked, "no JSON object")
        return answered

    async def text(self, request: Request) -> str:
        """The answer as it came."""
        try:
            # The timeout is that of the request, not of the wait for its turn.
            async with self._turns:
                answer = await self._send(request, TIMEOUT_SECONDS)
                text = (await answer.read()).decode(errors="replace")
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise unreachable(error) from error
        if answer.status >= 300:
            raise refusal(answer.status, text, answer.headers)
        return text

    async def lines(
        self, request: Request, patience: aiohttp.ClientTimeout
    ) -> AsyncIterator[bytes]:
        """What the API server goes on answering, line by line."""
        try:
            answer = await self._send(request, patience)
            async with answer:
                if answer.status >= 300:
                    text = (await answer.read()).decode(errors="replace")
                    raise refusal(answer.status, text, answer.headers)
                _notice_its_end(answer)
                async for line in _lines(answer.content):
                    yield line
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise unreachable(error) from error

    async def _send(
        self, request: Request, patience: aiohttp.ClientTimeout | float
    ) -> aiohttp.ClientResponse:
        serialized = await self._api.param_serialize(
            request.method,
            request.where,
            query_params=list(request.query),
            header_params={"Accept": request.accept, "Content-Type": request.content_type},
            body=request.body,
            auth_settings=["BearerToken"],
        )
        answer = await self._api.call_api(*serialized, _request_timeout=patience)
        response: aiohttp.ClientResponse = answer.response
        return response


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length, which the stream's own iterator limits."""
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line


def unreachable(error: Exception) -> KubeError:
    return KubeError(
        0, "Unreachable", f"the API server does not answer: {error or type(error).__name__}"
    )


@contextmanager
def reading(asked: str, otherwise: str) -> Iterator[None]:
    """Raises KubeError where the answer has another form than is read within it."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise foreign(asked, otherwise) from error


def foreign(asked: str, got: str) -> KubeError:
    """For an answer that no API server gives."""
    # Nothing of the answer, which may be the beginning of a Secret.
    return KubeError(
        0,
        "Unreachable",
        f"something else answers for the API server, since {asked} got {got}: see what stands "
        "between",
    )


def refusal(status: int, text: str, headers: Mapping[str, str]) -> KubeError:
    # The other form, a date, is none that an API server sends.
    after = headers.get("Retry-After", "")
    wait = min(float(after), MOST_RETRY_AFTER_SECONDS) if after.isdecimal() else 0.0
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        return KubeError(status, "Refused", text[:500], wait)
    return KubeError(
        status, str(body.get("reason") or "Refused"), str(body.get("message") or text[:500]), wait
    )


def _notice_its_end(answer: aiohttp.ClientResponse) -> None:
    """A watch only listens, so a connection that a load balancer or a lost node has forgotten would
    be believed in until the watch's time is over. The kernel asks after it instead: within 25 s."""
    transport = answer.connection.transport if answer.connection else None
    held = transport.get_extra_info("socket") if transport else None
    if held is not None:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        held.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
        held.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        held.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
