"""Plain dicts to and from the API server, written by server-side apply under one field manager."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml
from kubernetes.aio import client, config

from slm_operator.cluster.permit import Permit

ANYTHING = "application/json, */*"
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
FIELD_MANAGER = "slm-operator"
TIMEOUT_SECONDS = 15.0
IN_FLIGHT = 16
"""Requests that are under way at a time. More do not make an API server faster: one that is busy
answers all of them after their timeout, having worked for nobody. With answers after 20 ms it is
800 a second."""
MOST_RETRY_AFTER_SECONDS = 15.0
"""What asks to be left alone for longer is asked again even so, to notice when that is over."""
WATCH_SECONDS = 300
"""How long one watch goes on; then it is asked for anew, so that a dead connection is noticed."""
PAGE_OBJECTS = 250
"""So many Pods are some three megabytes, which is all that a long list needs of the memory."""

Object = Mapping[str, Any]
Objects = list[Object]
Query = list[tuple[str, str]]

UNUSABLE_CONFIGURATION = (config.ConfigException, OSError, TypeError, ValueError, yaml.YAMLError)
"""What the client raises for a kubeconfig that is missing, empty, no YAML, or incomplete."""

_PLURALS = {
    ("v1", "Pod"): "pods",
    ("v1", "Service"): "services",
    ("v1", "Secret"): "secrets",
    ("v1", "ConfigMap"): "configmaps",
    ("v1", "Event"): "events",
    ("policy/v1", "PodDisruptionBudget"): "poddisruptionbudgets",
    ("v1", "Namespace"): "namespaces",
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"): "customresourcedefinitions",
    ("coordination.k8s.io/v1", "Lease"): "leases",
    ("discovery.k8s.io/v1", "EndpointSlice"): "endpointslices",
    ("rbac.authorization.k8s.io/v1", "Role"): "roles",
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): "rolebindings",
    ("rbac.authorization.k8s.io/v1", "ClusterRole"): "clusterroles",
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"): "clusterrolebindings",
    ("serving.slm.dev/v1alpha1", "SLMService"): "slmservices",
}


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


@dataclass(frozen=True)
class Page:
    """A part of a list, all parts of which show one moment."""

    items: Objects
    version: str
    """Of the whole list: a watch goes on from it."""
    after: str
    """Where the next part begins; empty in the last one."""


class Kube:
    """A connection. Every call raises KubeError."""

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api
        self._turns = asyncio.Semaphore(IN_FLIGHT)

    @classmethod
    async def connect(
        cls,
        kubeconfig: Path | None = None,
        *,
        permit: Permit | None = None,
        middlewares: Sequence[aiohttp.ClientMiddlewareType] = (),
    ) -> Self:
        """By ``kubeconfig``, else KUBECONFIG, else the Pod's service account, else ~/.kube/config.
        Where there is a ``permit``, writes are sent only while it holds. ``middlewares`` see what
        is sent.

        Raises KubeError (NoClusterConfig) when none of them is there.
        """
        settings = client.Configuration()
        try:
            if kubeconfig is not None:
                await config.load_kube_config(str(kubeconfig), client_configuration=settings)
            elif os.environ.get("KUBECONFIG"):
                await config.load_kube_config(client_configuration=settings)
            else:
                try:
                    config.load_incluster_config(client_configuration=settings)
                except config.ConfigException:
                    await config.load_kube_config(client_configuration=settings)
        except UNUSABLE_CONFIGURATION as error:
            raise KubeError(
                0,
                "NoClusterConfig",
                f"no usable cluster configuration ({error}): set KUBECONFIG to a kubeconfig file",
            ) from error
        fences = () if permit is None else (permit.fence,)
        settings.client_session_kwargs = {"middlewares": (*fences, *middlewares)}
        return cls(client.ApiClient(settings))

    async def close(self) -> None:
        await self._api.close()

    async def get(self, api_version: str, kind: str, name: str, namespace: str = "") -> Object:
        return await self._call("GET", path(api_version, kind, namespace, name))

    async def list(
        self, api_version: str, kind: str, namespace: str = "", *, labels: str = ""
    ) -> Objects:
        """Objects of one namespace, or of all; from the server's cache, which is enough to
        observe."""
        query = [("resourceVersion", "0")]
        if labels:
            query.append(("labelSelector", labels))
        answer = await self._call("GET", path(api_version, kind, namespace), query=query)
        return [{"apiVersion": api_version, "kind": kind, **item} for item in answer["items"]]

    async def page(
        self, api_version: str, kind: str, namespace: str = "", *, labels: str = "", after: str = ""
    ) -> Page:
        """A part of the objects of one namespace, or of all, as they are now. One that comes too
        late ``after`` another is refused with 410."""
        query = [("limit", str(PAGE_OBJECTS)), ("labelSelector", labels), ("continue", after)]
        answer = await self._call("GET", path(api_version, kind, namespace), query=query)
        metadata = answer["metadata"]
        return Page(answer["items"], metadata["resourceVersion"], metadata.get("continue") or "")

    async def uids(self, api_version: str, kind: str, namespace: str = "") -> set[str]:
        """Of all objects of one namespace, or of all, as they are now; nothing else of them is
        sent."""
        found: set[str] = set()
        after = ""
        while True:
            query = [("limit", str(PAGE_OBJECTS)), ("continue", after)]
            where = path(api_version, kind, namespace)
            answer = json.loads(await self._text("GET", where, query=query, accept=METADATA_ONLY))
            found.update(item["metadata"]["uid"] for item in answer["items"])
            after = answer["metadata"].get("continue") or ""
            if not after:
                return found

    async def serves(self, api_version: str, kind: str) -> bool:
        """Whether the API server tells its clients of this kind."""
        try:
            answer = json.loads(await self._text("GET", f"/apis/{api_version}"))
        except KubeError as error:
            if error.status == 404:
                return False
            raise
        return any(one["kind"] == kind for one in answer["resources"])

    async def version(self, api_version: str, kind: str, namespace: str = "") -> int:
        """Of all that is stored, as it is now, asked by a list of one namespace, or of all; it goes
        back when an older copy is restored."""
        query = [("limit", "1")]
        where = path(api_version, kind, namespace)
        answer = json.loads(await self._text("GET", where, query=query, accept=METADATA_ONLY))
        return int(answer["metadata"]["resourceVersion"])

    async def watch(
        self, api_version: str, kind: str, namespace: str = "", *, labels: str = "", since: str
    ) -> AsyncIterator[tuple[str, Object]]:
        """What happens to the objects of one namespace, or of all, after the version ``since``,
        each with its type (ADDED, MODIFIED, DELETED, BOOKMARK), until the server ends the watch. A
        version that it has forgotten is refused with 410."""
        query = [
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", str(WATCH_SECONDS)),
            ("labelSelector", labels),
            ("resourceVersion", since),
        ]
        patience = aiohttp.ClientTimeout(
            sock_connect=TIMEOUT_SECONDS, sock_read=WATCH_SECONDS + TIMEOUT_SECONDS
        )
        try:
            async for line in self._stream(path(api_version, kind, namespace), query, patience):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise _refusal(status.get("code", 0), json.dumps(status), {})
                yield event["type"], event["object"]
        except ValueError as error:
            raise _unreachable(error) from error

    async def log(
        self, namespace: str, pod: str, *, tail_lines: int, follow: bool = False
    ) -> AsyncIterator[str]:
        """The last lines of the Pod's only container, and with ``follow`` those to come until it
        ends."""
        query = [("tailLines", str(tail_lines)), ("follow", str(follow).lower())]
        patience = aiohttp.ClientTimeout(
            sock_connect=TIMEOUT_SECONDS, sock_read=None if follow else TIMEOUT_SECONDS
        )
        where = path("v1", "Pod", namespace, pod) + "/log"
        async for line in self._stream(where, query, patience):
            yield line.decode(errors="replace")

    async def pod_get(self, namespace: str, pod: str, port: int, where: str) -> str:
        """What the Pod itself answers to a GET of ``where``, through the API server's proxy."""
        return await self._text("GET", path("v1", "Pod", namespace, f"{pod}:{port}/proxy{where}"))

    async def _stream(
        self,
        where: str,
        query: Query,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the client's
    ) -> AsyncIterator[bytes]:
        try:
            answer = await self._send("GET", where, query=query, timeout=timeout)
            async with answer:
                if answer.status >= 300:
                    text = (await answer.read()).decode(errors="replace")
                    raise _refusal(answer.status, text, answer.headers)
                _notice_its_end(answer)
                async for line in _lines(answer.content):
                    yield line
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _unreachable(error) from error

    async def apply(
        self,
        obj: Object,
        *,
        subresource: str = "",
        force: bool = False,
        manager: str = FIELD_MANAGER,
    ) -> Object:
        """Server-side apply: the object's fields become ``manager``'s, those of its fields that are
        left out cease to be. Fields that somebody else owns are a conflict (status 409) unless
        ``force``."""
        metadata = obj["metadata"]
        where = path(
            obj["apiVersion"], obj["kind"], metadata.get("namespace", ""), metadata["name"]
        )
        query = [
            ("fieldManager", manager),
            ("force", str(force).lower()),
            ("fieldValidation", "Strict"),
        ]
        return await self._call(
            "PATCH",
            f"{where}/{subresource}" if subresource else where,
            body=obj,
            query=query,
            content_type="application/apply-patch+yaml",
        )

    async def create(self, obj: Object) -> Object:
        where = path(obj["apiVersion"], obj["kind"], obj["metadata"].get("namespace", ""))
        return await self._call("POST", where, body=obj)

    async def replace(self, obj: Object) -> Object:
        """Writes the whole object, which is refused (status 409) when it has another version by
        now."""
        metadata = obj["metadata"]
        where = path(
            obj["apiVersion"], obj["kind"], metadata.get("namespace", ""), metadata["name"]
        )
        return await self._call("PUT", where, body=obj)

    async def merge(self, obj: Object, patch: Object) -> Object:
        """JSON merge patch of an existing object."""
        metadata = obj["metadata"]
        where = path(
            obj["apiVersion"], obj["kind"], metadata.get("namespace", ""), metadata["name"]
        )
        return await self._call(
            "PATCH", where, body=patch, content_type="application/merge-patch+json"
        )

    async def delete(
        self, api_version: str, kind: str, name: str, namespace: str = "", *, uid: str = ""
    ) -> None:
        """Deletes an object; one that is gone, or is another by ``uid``, is no error."""
        body = {"preconditions": {"uid": uid}} if uid else None
        try:
            await self._call("DELETE", path(api_version, kind, namespace, name), body=body)
        except KubeError as error:
            if error.status not in (404, 409):
                raise

    async def _call(
        self,
        method: str,
        where: str,
        *,
        body: Object | None = None,
        query: Query | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        text = await self._text(method, where, body=body, query=query, content_type=content_type)
        answered: dict[str, Any] = json.loads(text)
        return answered

    async def _text(
        self,
        method: str,
        where: str,
        *,
        body: Object | None = None,
        query: Query | None = None,
        content_type: str = "application/json",
        accept: str = ANYTHING,
    ) -> str:
        try:
            # The timeout is that of the request, not of the wait for its turn.
            async with self._turns:
                answer = await self._send(
                    method,
                    where,
                    body=body,
                    query=query,
                    content_type=content_type,
                    accept=accept,
                )
                text = (await answer.read()).decode(errors="replace")
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _unreachable(error) from error
        if answer.status >= 300:
            raise _refusal(answer.status, text, answer.headers)
        return text

    async def _send(
        self,
        method: str,
        where: str,
        *,
        body: Object | None = None,
        query: Query | None = None,
        content_type: str = "application/json",
        accept: str = ANYTHING,
        timeout: aiohttp.ClientTimeout | float = TIMEOUT_SECONDS,  # noqa: ASYNC109 - the client's
    ) -> aiohttp.ClientResponse:
        request = await self._api.param_serialize(
            method,
            where,
            query_params=query or [],
            header_params={"Accept": accept, "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        answer = await self._api.call_api(*request, _request_timeout=timeout)
        response: aiohttp.ClientResponse = answer.response
        return response


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length, which the stream's own iterator limits."""
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line


def path(api_version: str, kind: str, namespace: str = "", name: str = "") -> str:
    """An object's or collection's path. Raises KeyError for a kind that this project never uses."""
    plural = _PLURALS[api_version, kind]
    root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{scope}/{plural}" + (f"/{name}" if name else "")


def _unreachable(error: Exception) -> KubeError:
    return KubeError(
        0, "Unreachable", f"the API server does not answer: {error or type(error).__name__}"
    )


def _refusal(status: int, text: str, headers: Mapping[str, str]) -> KubeError:
    # The other form, a date, is none that an API server sends.
    after = headers.get("Retry-After", "")
    wait = min(float(after), MOST_RETRY_AFTER_SECONDS) if after.isdecimal() else 0.0
    try:
        body = json.loads(text)
    except ValueError:
        return KubeError(status, "Refused", text[:500], wait)
    return KubeError(
        status, str(body.get("reason") or "Refused"), str(body.get("message") or text[:500]), wait
    )


def _notice_its_end(answer: aiohttp.ClientResponse) -> None:
    """A watch only listens, so a connection that a load balancer or a lost node has forgotten would
    be believed in until WATCH_SECONDS are over. The kernel asks after it instead: within 25 s."""
    transport = answer.connection.transport if answer.connection else None
    held = transport.get_extra_info("socket") if transport else None
    if held is not None:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        held.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
        held.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        held.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
