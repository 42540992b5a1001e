"""Plain dicts to and from the API server, written by server-side apply under one field manager."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

import aiohttp
from kubernetes.aio import client

from slm_operator.cluster.configuration import configuration
from slm_operator.cluster.connection import (
    ANYTHING,
    TIMEOUT_SECONDS,
    Connection,
    KubeError,
    Request,
    reading,
    refusal,
)
from slm_operator.cluster.permit import Permit

APPLY_PATCH = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
METADATA_OF_EACH = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
FIELD_MANAGER = "slm-operator"
WATCH_SECONDS = 300
"""How long one watch goes on; then it is asked for anew, so that a dead connection is noticed."""
PAGE_OBJECTS = 50
"""So many services or Pods are less than a megabyte, and some four as objects, which is all that a
long list needs of the memory."""

Object = Mapping[str, Any]
Objects = list[Object]

_PLURALS = {
    ("v1", "Pod"): "pods",
    ("v1", "Service"): "services",
    ("v1", "Secret"): "secrets",
    ("v1", "ConfigMap"): "configmaps",
    ("v1", "Event"): "events",
    ("policy/v1", "PodDisruptionBudget"): "poddisruptionbudgets",
    ("v1", "Namespace"): "namespaces",
    ("v1", "Node"): "nodes",
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"): "customresourcedefinitions",
    ("coordination.k8s.io/v1", "Lease"): "leases",
    ("discovery.k8s.io/v1", "EndpointSlice"): "endpointslices",
    ("rbac.authorization.k8s.io/v1", "Role"): "roles",
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): "rolebindings",
    ("rbac.authorization.k8s.io/v1", "ClusterRole"): "clusterroles",
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"): "clusterrolebindings",
    ("serving.slm.dev/v1alpha1", "SLMService"): "slmservices",
}


@dataclass(frozen=True)
class Page:
    """A part of a list, all parts of which show one moment."""

    items: Objects
    version: str
    """Of the whole list: a watch goes on from it."""


class Kube:
    """What the API server keeps and tells. Every call raises KubeError."""

    def __init__(self, api: client.ApiClient) -> None:
        self._connection = Connection(api)

    @classmethod
    async def connect(
        cls,
        kubeconfig: Path | None = None,
        *,
        permit: Permit | None = None,
        middlewares: Sequence[aiohttp.ClientMiddlewareType] = (),
    ) -> Self:
        """To the cluster of `configuration`. Where there is a ``permit``, writes are sent only
        while it holds. ``middlewares`` see what is sent."""
        settings = await configuration(kubeconfig)
        fences = () if permit is None else (permit.fence,)
        settings.client_session_kwargs = {
            "middlewares": (*fences, *middlewares),
            # The session would look for ~/.netrc and a proxy at each request, in a thread.
            "trust_env": False,
        }
        return cls(client.ApiClient(settings))

    async def close(self) -> None:
        await self._connection.close()

    async def get(self, api_version: str, kind: str, name: str, namespace: str = "") -> Object:
        where = path(api_version, kind, namespace, name)
        return await self._connection.call(Request("GET", where))

    async def list(
        self, api_version: str, kind: str, namespace: str = "", *, labels: str = ""
    ) -> Objects:
        """Objects of one namespace, or of all; from the server's cache, which is enough to
        observe."""
        query = [("resourceVersion", "0")]
        if labels:
            query.append(("labelSelector", labels))
        request = Request("GET", path(api_version, kind, namespace), query=query)
        answer = await self._connection.call(request)
        with reading(request.asked, "no list"):
            return [{"apiVersion": api_version, "kind": kind, **item} for item in answer["items"]]

    async def pages(
        self,
        api_version: str,
        kind: str,
        namespace: str = "",
        *,
        labels: str = "",
        metadata_only: bool = False,
    ) -> AsyncIterator[Page]:
        """The objects of one namespace, or of all, as they are now, part by part. One that is
        asked for too late after another is refused with 410."""
        where = path(api_version, kind, namespace)
        accept = METADATA_ONLY if metadata_only else ANYTHING
        request = Request("GET", where, query=[("labelSelector", labels)], accept=accept)
        async for answer in self._parts(request):
            with reading(request.asked, "no list"):
                # Of metadata alone an empty list is null.
                page = Page(answer["items"] or [], _version(answer))
                for item in page.items:
                    _identity(item)
            yield page

    async def versions(self, api_version: str, kind: str, namespace: str = "") -> dict[str, int]:
        """Of all objects of one namespace, or of all, as they are now, by UID; only their metadata
        are sent."""
        found: dict[str, int] = {}
        async for page in self.pages(api_version, kind, namespace, metadata_only=True):
            found |= map(_identity, page.items)
        return found

    async def _parts(self, request: Request) -> AsyncIterator[Object]:
        """The answers to a list that is asked for part by part."""
        after = ""
        while True:
            query = [("limit", str(PAGE_OBJECTS)), *request.query, ("continue", after)]
            answer = await self._connection.call(replace(request, query=query))
            yield answer
            after = answer["metadata"].get("continue") or ""
            if not after:
                return

    async def serves(self, api_version: str, kind: str) -> bool:
        """Whether the API server tells its clients of this kind."""
        request = Request("GET", f"/apis/{api_version}")
        try:
            answer = await self._connection.call(request)
        except KubeError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return False
            raise
        with reading(request.asked, "no list"):
            return any(one["kind"] == kind for one in answer["resources"])

    async def version(self, api_version: str, kind: str, namespace: str = "") -> int:
        """Of all that is stored, as it is now, asked by a list of one namespace, or of all; it goes
        back when an older copy is restored."""
        query = [("limit", "1")]
        where = path(api_version, kind, namespace)
        request = Request("GET", where, query=query, accept=METADATA_ONLY)
        answer = await self._connection.call(request)
        with reading(request.asked, "no list"):
            return int(_version(answer))

    async def watch(
        self,
        api_version: str,
        kind: str,
        namespace: str = "",
        *,
        labels: str = "",
        since: str,
        metadata_only: bool = False,
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
        accept = METADATA_OF_EACH if metadata_only else ANYTHING
        request = Request("GET", path(api_version, kind, namespace), query=query, accept=accept)
        async for line in self._connection.lines(request, patience):
            with reading(request.asked, "no event"):
                event = json.loads(line)
                what, obj = event["type"], event["object"]
                if what == "ERROR":
                    raise refusal(obj.get("code", 0), json.dumps(obj), {})
                _version(obj) if what == "BOOKMARK" else _identity(obj)
            yield what, obj

    async def log(
        self, namespace: str, pod: str, *, tail_lines: int, follow: bool = False
    ) -> AsyncIterator[str]:
        """The last lines of the Pod's only container, and with ``follow`` those to come until it
        ends."""
        query = [("tailLines", str(tail_lines)), ("follow", str(follow).lower())]
        patience = aiohttp.ClientTimeout(
            sock_connect=TIMEOUT_SECONDS, sock_read=None if follow else TIMEOUT_SECONDS
        )
        request = Request("GET", path("v1", "Pod", namespace, pod) + "/log", query=query)
        async for line in self._connection.lines(request, patience):
            yield line.decode(errors="replace")

    async def pod_get(self, namespace: str, pod: str, port: int, where: str) -> str:
        """What the Pod itself answers to a GET of ``where``, through the API server's proxy."""
        proxied = path("v1", "Pod", namespace, f"{pod}:{port}/proxy{where}")
        return await self._connection.text(Request("GET", proxied))

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
        ``force``. Returns no more than the object's metadata."""
        where = _path_of(obj) + (f"/{subresource}" if subresource else "")
        query = [
            ("fieldManager", manager),
            ("force", str(force).lower()),
            ("fieldValidation", "Strict"),
        ]
        return await self._connection.call(
            Request(
                "PATCH",
                where,
                body=obj,
                query=query,
                accept=METADATA_OF_EACH,
                content_type=APPLY_PATCH,
            )
        )

    async def create(self, obj: Object) -> Object:
        where = path(obj["apiVersion"], obj["kind"], obj["metadata"].get("namespace", ""))
        return await self._connection.call(Request("POST", where, body=obj))

    async def replace(self, obj: Object) -> Object:
        """Writes the whole object, which is refused (status 409) when it has another version by
        now."""
        return await self._connection.call(Request("PUT", _path_of(obj), body=obj))

    async def merge(self, obj: Object, patch: Object) -> Object:
        """JSON merge patch of an existing object."""
        return await self._connection.call(
            Request("PATCH", _path_of(obj), body=patch, content_type=MERGE_PATCH)
        )

    async def metadata_of(self, obj: Object) -> Object:
        """Of the object that is there under the name of ``obj``. By a patch that changes nothing:
        Secrets may be written and not read."""
        answer = await self._connection.call(
            Request(
                "PATCH",
                _path_of(obj),
                body={},
                query=[("dryRun", "All")],
                accept=METADATA_OF_EACH,
                content_type=MERGE_PATCH,
            )
        )
        return dict(answer["metadata"])

    async def delete(
        self, api_version: str, kind: str, name: str, namespace: str = "", *, uid: str = ""
    ) -> None:
        """Deletes an object; one that is gone, or is another by ``uid``, is no error."""
        where = path(api_version, kind, namespace, name)
        body = {"preconditions": {"uid": uid}} if uid else None
        try:
            await self._connection.call(Request("DELETE", where, body=body))
        except KubeError as error:
            if error.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                raise


async def get_or_none(
    kube: Kube, api_version: str, kind: str, name: str, namespace: str = ""
) -> Object | None:
    """As `Kube.get`; None for an object that is not there."""
    try:
        return await kube.get(api_version, kind, name, namespace)
    except KubeError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return None
        raise


def path(api_version: str, kind: str, namespace: str = "", name: str = "") -> str:
    """An object's or collection's path. Raises KeyError for a kind that this project never uses."""
    plural = _PLURALS[api_version, kind]
    root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{scope}/{plural}" + (f"/{name}" if name else "")


def _version(answer: Object) -> str:
    """Of an object or a list; it is a number."""
    version: str = answer["metadata"]["resourceVersion"]
    int(version)
    return version


def _identity(obj: Object) -> tuple[str, int]:
    """UID and version."""
    return obj["metadata"]["uid"], int(_version(obj))


def _path_of(obj: Object) -> str:
    metadata = obj["metadata"]
    return path(obj["apiVersion"], obj["kind"], metadata.get("namespace", ""), metadata["name"])
