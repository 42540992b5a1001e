"""Watches and pages of the API server, as it answers them over HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
from asyncio.trsock import TransportSocket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio import client

import kubeconfigs
from slm_operator.cluster.connection import IN_FLIGHT, MOST_RETRY_AFTER_SECONDS, KubeError
from slm_operator.cluster.kube import (
    METADATA_OF_EACH,
    Kube,
    Page,
    get_or_none,
)

A, C = ({"metadata": {"uid": uid, "resourceVersion": at}} for uid, at in ("a1", "c3"))

Handler = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def served(handle: Handler) -> AsyncIterator[Kube]:
    """A connection to a server that answers everything by ``handle``."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with TestServer(app) as server:
        kube = Kube(client.ApiClient(client.Configuration(host=str(server.make_url("")))))
        yield kube
        await kube.close()


@asynccontextmanager
async def answering(
    body: str, status: int = 200, **headers: str
) -> AsyncIterator[tuple[Kube, list[Mapping[str, str]]]]:
    """A connection to a server that answers everything the same, and the queries that it got."""
    queries: list[Mapping[str, str]] = []

    async def handle(request: web.Request) -> web.Response:
        queries.append(request.query)
        return web.Response(text=body, status=status, headers=headers)

    async with served(handle) as kube:
        yield kube, queries


def lines(*events: dict[str, Any]) -> str:
    return "".join(json.dumps(event) + "\n" for event in events)


async def watched(kube: Kube) -> list[tuple[str, Any]]:
    return [event async for event in kube.watch("v1", "Pod", labels="a=b", since="3")]


async def test_a_watch_yields_objects_of_any_size_from_a_version_on() -> None:
    large = {"metadata": {**A["metadata"], "annotations": {"a": "x" * 400_000}}}
    mark = {"metadata": {"resourceVersion": "5"}}
    events = lines({"type": "ADDED", "object": large}, {"type": "BOOKMARK", "object": mark})
    async with answering(events) as (kube, queries):
        assert await watched(kube) == [("ADDED", large), ("BOOKMARK", mark)]
    assert (queries[0]["resourceVersion"], queries[0]["labelSelector"]) == ("3", "a=b")


async def test_a_forgotten_version_is_410_however_the_server_says_it() -> None:
    gone = {"code": 410, "reason": "Expired", "message": "too old resource version"}
    for body, status in ((lines({"type": "ERROR", "object": gone}), 200), (json.dumps(gone), 410)):
        async with answering(body, status) as (kube, _):
            with pytest.raises(KubeError, match="Expired: too old") as raised:
                await watched(kube)
        assert raised.value.status == 410


async def test_a_watch_that_is_cut_inside_a_line_is_an_outage() -> None:
    async with answering('{"type": "ADDED", \n') as (kube, _):
        with pytest.raises(KubeError) as raised:
            await watched(kube)
    assert raised.value.status == 0


@pytest.mark.parametrize("body", ["<html>hotel Wi-Fi</html>", '{"items": [', "", "[]", "null"])
async def test_an_answer_that_is_no_object_is_an_outage(body: str) -> None:
    async with answering(body) as (kube, _):
        with pytest.raises(KubeError, match="GET /api/v1/namespaces/default/pods/p got") as raised:
            await kube.get("v1", "Pod", "p", "default")
    assert (raised.value.status, raised.value.is_refusal) == (0, False)


NO_LISTS = (
    {"status": "maintenance"},
    {"kind": "Status", "code": 200, "metadata": {}},
    {"items": "none", "metadata": {"resourceVersion": "9"}, "resources": "none"},
    {"items": ["p"], "metadata": {"resourceVersion": "9"}, "resources": ["p"]},
    {"items": [{}], "metadata": {"resourceVersion": "new"}, "resources": [{}]},
    {"items": 3, "metadata": ["9"], "resources": 3},
)


@pytest.mark.parametrize("body", NO_LISTS, ids=json.dumps)
@pytest.mark.parametrize("what", ["pages", "versions", "serves"])
async def test_an_object_that_is_no_list_is_an_outage(what: str, body: dict[str, Any]) -> None:
    async with answering(json.dumps(body)) as (kube, _):
        with pytest.raises(KubeError, match="got no list: see what stands between") as raised:
            match what:
                case "pages":
                    [page async for page in kube.pages("v1", "Pod")]
                case "versions":
                    await kube.versions("v1", "Pod")
                case "serves":
                    await kube.serves("serving.slm.dev/v1alpha1", "SLMService")
    assert (raised.value.status, raised.value.is_refusal) == (0, False)


@pytest.mark.parametrize("what", ["list", "version"])
async def test_so_it_is_where_less_of_a_list_is_read(what: str) -> None:
    async with answering('{"status": "maintenance"}') as (kube, _):
        with pytest.raises(KubeError, match="got no list"):
            await (kube.list if what == "list" else kube.version)("v1", "Pod")


NO_EVENTS: tuple[object, ...] = (
    {"status": "maintenance"},
    {"kind": "Status", "code": 410, "reason": "Expired"},
    {"type": "ADDED", "object": {"metadata": {"resourceVersion": "9"}}},
    {"type": "BOOKMARK", "object": {}},
    {"type": "DELETED", "object": None},
    {"type": "ERROR", "object": "maintenance"},
    [],
    "",
    None,
)


@pytest.mark.parametrize("event", NO_EVENTS, ids=json.dumps)
async def test_a_line_that_is_no_event_is_an_outage(event: object) -> None:
    async with answering(json.dumps(event) + "\n") as (kube, _):
        with pytest.raises(KubeError, match="got no event") as raised:
            await watched(kube)
    assert raised.value.status == 0


@pytest.mark.parametrize("body", ["<html>no</html>", "[]", '"no"', "null"])
async def test_a_refusal_that_is_no_object_is_quoted(body: str) -> None:
    async with answering(body, 403) as (kube, _):
        with pytest.raises(KubeError) as raised:
            await kube.get("v1", "Pod", "p", "default")
    assert (raised.value.status, raised.value.message) == (403, body)


async def test_the_version_of_what_is_stored_costs_one_object() -> None:
    body = {"items": [{}], "metadata": {"resourceVersion": "9"}}
    async with answering(json.dumps(body)) as (kube, queries):
        assert await kube.version("v1", "Pod") == 9
    assert queries[0]["limit"] == "1"


async def test_a_busy_server_is_not_asked_more_at_a_time_than_it_can_work_on() -> None:
    asking = most = 0

    async def handle(_: web.Request) -> web.Response:
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        await asyncio.sleep(0)
        asking -= 1
        return web.Response(text="{}")

    async with served(handle) as kube:
        await asyncio.gather(*(kube.get("v1", "Pod", f"p{number}") for number in range(60)))
    assert 1 < most <= IN_FLIGHT


async def test_a_log_is_read_by_lines_and_a_pod_is_asked_by_its_port() -> None:
    async with answering("one\ntwo\n") as (kube, queries):
        lines = [line async for line in kube.log("default", "p", tail_lines=5)]
        assert await kube.pod_get("default", "p", 8080, "/metrics") == "one\ntwo\n"
    assert lines == ["one", "two"]
    assert queries[0] == {"tailLines": "5", "follow": "false"}


async def test_a_refused_log_is_an_error_with_the_servers_words() -> None:
    refusal = json.dumps({"reason": "Forbidden", "message": "no pods/log"})
    async with answering(refusal, 403) as (kube, _):
        with pytest.raises(KubeError, match="no pods/log"):
            [line async for line in kube.log("default", "p", tail_lines=5)]


IN_TWO_PARTS = {
    "": {"items": [A], "metadata": {"resourceVersion": "9", "continue": "b"}},
    "b": {"items": [C], "metadata": {"resourceVersion": "9"}},
}
"""By where they begin."""


async def test_a_list_comes_part_by_part_until_its_end() -> None:
    async def handle(request: web.Request) -> web.Response:
        assert request.query["labelSelector"] == "a=b"
        return web.json_response(IN_TWO_PARTS[request.query["continue"]])

    async with served(handle) as kube:
        pages = [page async for page in kube.pages("v1", "Pod", labels="a=b")]
    assert pages == [Page([A], "9"), Page([C], "9")]


async def test_of_metadata_alone_an_empty_list_is_null_and_a_watch_has_a_form_of_its_own() -> None:
    accepted = []

    async def handle(request: web.Request) -> web.Response:
        accepted.append(request.headers["Accept"])
        if "watch" in request.query:
            return web.Response(text=lines({"type": "ADDED", "object": A}))
        return web.json_response({"items": None, "metadata": {"resourceVersion": "9"}})

    async with served(handle) as kube:
        pages = [page async for page in kube.pages("v1", "Service", metadata_only=True)]
        assert await kube.versions("v1", "Service") == {}
        watch = kube.watch("v1", "Service", since="9", metadata_only=True)
        assert [event async for event in watch] == [("ADDED", A)]
    assert pages == [Page([], "9")]
    kinds = [accept.split(";")[1] for accept in accepted]
    assert kinds == ["as=PartialObjectMetadataList"] * 2 + ["as=PartialObjectMetadata"]


async def test_versions_are_gathered_over_all_pages_without_the_objects() -> None:
    accepted = []

    async def handle(request: web.Request) -> web.Response:
        accepted.append(request.headers["Accept"])
        return web.json_response(IN_TWO_PARTS[request.query["continue"]])

    async with served(handle) as kube:
        assert await kube.versions("v1", "Pod") == {"a": 1, "c": 3}
    assert all("PartialObjectMetadataList" in accept for accept in accepted)


async def test_what_is_not_there_is_none_and_a_refusal_is_not() -> None:
    async with answering("{}", 404) as (kube, _):
        assert await get_or_none(kube, "v1", "Pod", "p", "default") is None
    async with answering('{"kind": "Pod"}') as (kube, _):
        assert await get_or_none(kube, "v1", "Pod", "p", "default") == {"kind": "Pod"}
    async with answering("{}", 403) as (kube, _):
        with pytest.raises(KubeError):
            await get_or_none(kube, "v1", "Pod", "p", "default")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({}, 0.0),
        ({"Retry-After": "86400"}, MOST_RETRY_AFTER_SECONDS),
        ({"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}, 0.0),
    ],
)
async def test_a_busy_server_says_for_how_long_it_is_to_be_left_alone(
    header: dict[str, str], seconds: float
) -> None:
    async with answering("{}", 429, **header) as (kube, _):
        with pytest.raises(KubeError) as raised:
            await kube.get("v1", "Pod", "p", "default")
        assert raised.value.retry_after_seconds == seconds
        with pytest.raises(KubeError) as raised:
            await watched(kube)
        assert raised.value.retry_after_seconds == seconds


async def test_the_kernel_asks_after_the_connection_of_a_watch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def note(_: TransportSocket, *option: Any) -> None:
        asked.append(option)

    monkeypatch.setattr(TransportSocket, "setsockopt", note)
    async with answering("") as (kube, _):
        await watched(kube)
    assert (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1) in asked


async def test_the_metadata_of_what_may_not_be_read_comes_by_a_patch_of_nothing() -> None:
    asked: list[tuple[Any, ...]] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append((request.method, request.path, dict(request.query), await request.text()))
        asked.append((request.content_type, request.headers["Accept"]))
        return web.json_response({"metadata": {"uid": "7"}})

    secret = {"apiVersion": "v1", "kind": "Secret", "stringData": {"token": "t"}}
    async with served(handle) as kube:
        found = await kube.metadata_of(
            secret | {"metadata": {"name": "a", "namespace": "b", "labels": {"c": "d"}}}
        )
    assert found == {"uid": "7"}
    assert asked == [
        ("PATCH", "/api/v1/namespaces/b/secrets/a", {"dryRun": "All"}, "{}"),
        ("application/merge-patch+json", METADATA_OF_EACH),
    ]


async def test_passwords_of_a_netrc_do_not_get_into_the_way_of_the_token(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password other\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    seen = []

    async def handle(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.json_response({})

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    async with TestServer(app) as server:
        where = str(server.make_url(""))
        kubeconfig = kubeconfigs.written(tmp_path / "kubeconfig", where, user={"token": "t"})
        kube = await Kube.connect(kubeconfig)
        await kube.get("v1", "Pod", "p", "default")
        await kube.close()
    assert seen == ["Bearer t"]
