"""The few calls to the API server that a node makes, with plain JSON in and out."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from kubernetes.aio import config

from slm_dev.local_node.spec import Json

MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"

_REQUEST_TIMEOUT_SECONDS = 10.0
_WATCH_SECONDS = 240
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0

log = logging.getLogger(__name__)


class ApiError(Exception):
    """The API server said no, or did not answer (`status` 0)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{message} (HTTP {status})" if status else message)
        self.status = status

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in (0, 408, 409, 429) or self.status >= 500


@dataclass(frozen=True)
class Listing:
    """All objects there are."""

    items: tuple[Json, ...]


@dataclass(frozen=True)
class Change:
    """One object that was added or modified, or is gone."""

    object: Json
    gone: bool


class ApiServer:
    """A connection to the API server as one user; an asynchronous context manager."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig
        self._client: Any = None

    async def __aenter__(self) -> Self:
        self._client = await config.new_client_from_config(str(self._kubeconfig))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._client.close()

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        return await self._request("GET", path, query=query)

    async def post(self, path: str, body: Json) -> Json:
        return await self._request("POST", path, body=body)

    async def patch(self, path: str, body: Json, content_type: str) -> Json:
        return await self._request("PATCH", path, body=body, content_type=content_type)

    async def delete(self, path: str, body: Json) -> Json:
        return await self._request("DELETE", path, body=body)

    async def follow(
        self, path: str, query: Mapping[str, str] | None = None
    ) -> AsyncGenerator[Listing | Change, None]:
        """Lists a collection and then yields its changes for ever, through outages.

        After every interruption the whole collection is listed again.
        """
        pauses = Pauses()
        while True:
            try:
                listing = await self.get(path, query)
                pauses.reset()
                yield Listing(tuple(listing["items"]))
                version = listing["metadata"]["resourceVersion"]
                while True:
                    async for event in self._watch(path, query or {}, version):
                        version = event["object"]["metadata"]["resourceVersion"]
                        if event["type"] != "BOOKMARK":
                            yield Change(event["object"], gone=event["type"] == "DELETED")
            except ApiError as error:
                # 410: the version to go on from has been forgotten, which is nothing unusual.
                if error.status != 410:
                    log.warning("Lost sight of %s, listing it again soon: %s", path, error)
                await pauses.pause()

    async def _watch(
        self, path: str, query: Mapping[str, str], version: str
    ) -> AsyncIterator[Json]:
        parameters = {
            **query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=_REQUEST_TIMEOUT_SECONDS, sock_read=_WATCH_SECONDS + 10
        )
        try:
            response = await self._send("GET", path, parameters, None, "", timeout)
            async with response:
                async for line in response.content:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        status = event["object"]
                        raise ApiError(status.get("code", 0), status.get("message", ""))
                    yield event
        except (aiohttp.ClientError, OSError, TimeoutError, json.JSONDecodeError) as error:
            raise ApiError(0, f"watching {path}: {error!r}") from error

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        content_type: str = "application/json",
    ) -> Json:
        timeout = aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT_SECONDS)
        try:
            response = await self._send(method, path, query, body, content_type, timeout)
            async with response:
                answer: Json = await response.json()
                return answer
        except (aiohttp.ClientError, OSError, TimeoutError, json.JSONDecodeError) as error:
            raise ApiError(0, f"{method} {path}: {error!r}") from error

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Json | None,
        content_type: str,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - handed on to the client
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": "application/json"} | ({"Content-Type": content_type} if body else {})
        method, url, headers, body, _ = await self._client.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        wrapped = await self._client.call_api(method, url, headers, body, _request_timeout=timeout)
        response: aiohttp.ClientResponse = wrapped.response
        if response.status >= 400:
            async with response:
                text = await response.text()
            try:
                message = json.loads(text)["message"]
            except (ValueError, KeyError, TypeError):
                message = text[:500]
            raise ApiError(response.status, message)
        return response


class Pauses:
    """Growing pauses between tries."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._seconds = _FIRST_PAUSE_SECONDS

    async def pause(self) -> None:
        await asyncio.sleep(self._seconds)
        self._seconds = min(2 * self._seconds, _LONGEST_PAUSE_SECONDS)


async def persist(what: str, attempt: Callable[[], Awaitable[object]]) -> None:
    """Tries until it succeeds, or until it fails in a way that trying again does not mend.

    An object that is gone counts as success.

    Raises:
        ApiError: the API server refuses the request.
    """
    pauses = Pauses()
    while True:
        try:
            await attempt()
            return
        except ApiError as error:
            if error.status == 404:
                return
            if not error.transient:
                raise
            log.info("Will try again to %s: %s", what, error)
        await pauses.pause()


def pod_path(namespace: str, name: str, subresource: str = "") -> str:
    """The path of a Pod or of its subresource."""
    path = f"/api/v1/namespaces/{namespace}/pods/{name}"
    return f"{path}/{subresource}" if subresource else path
