"""What is sent while a process does not lead: reads alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Kube
from slm_operator.cluster.permit import NotLeadingError, Permit
from slm_worker.wire import LEADER_EPOCH_HEADER

WRITING = ("POST", "PUT", "PATCH", "DELETE")


class Clock:
    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@asynccontextmanager
async def answering(seconds: float = 0.0) -> AsyncIterator[tuple[str, list[web.Request]]]:
    """A server that answers after so many seconds, and what it was sent."""
    got: list[web.Request] = []

    async def handle(request: web.Request) -> web.Response:
        got.append(request)
        await asyncio.sleep(seconds)
        return web.json_response({})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with TestServer(app) as server:
        yield str(server.make_url("/")), got


async def send(permit: Permit, url: str, method: str) -> None:
    async with (
        aiohttp.ClientSession(middlewares=(permit.fence,)) as session,
        session.request(method, url),
    ):
        pass


@pytest.mark.parametrize("method", WRITING)
async def test_a_write_is_sent_until_the_permit_ends_and_not_after(method: str) -> None:
    clock = Clock()
    permit = Permit(clock)
    permit.extend(107.5, epoch=7)
    async with answering() as (url, got):
        await send(permit, url, method)
        assert [r.headers[LEADER_EPOCH_HEADER] for r in got] == ["7"]
        clock.seconds = 107.5
        with pytest.raises(NotLeadingError):
            await send(permit, url, method)
        assert len(got) == 1
        await send(permit, url, "GET")
        assert len(got) == 2


async def test_a_write_that_is_under_way_when_the_permit_ends_is_given_up() -> None:
    clock = Clock()
    permit = Permit(clock)
    permit.extend(100.1, epoch=1)
    async with answering(seconds=30) as (url, _):
        with pytest.raises(TimeoutError):
            await send(permit, url, "PUT")


async def test_an_operator_that_is_alone_claims_no_leadership() -> None:
    async with answering() as (url, got):
        await send(Permit.unlimited(), url, "PUT")
    assert LEADER_EPOCH_HEADER not in got[0].headers


async def test_what_was_ended_stays_ended() -> None:
    permit = Permit(Clock())
    assert not permit.holds
    permit.extend(200, epoch=1)
    assert permit.holds
    permit.end()
    assert not permit.holds


async def test_the_connection_to_the_api_server_is_fenced(tmp_path: Path) -> None:
    async with answering() as (url, got):
        kubeconfig = tmp_path / "config"
        kubeconfig.write_text(
            "{apiVersion: v1, kind: Config, current-context: c, users: [{name: u, user: {}}], "
            f"clusters: [{{name: c, cluster: {{server: '{url}'}}}}], "
            "contexts: [{name: c, context: {cluster: c, user: u}}]}"
        )
        kube = await Kube.connect(kubeconfig, permit=Permit(Clock()))
        try:
            with pytest.raises(KubeError, match="does not hold the lease"):
                await kube.create({"apiVersion": "v1", "kind": "Pod", "metadata": {}})
            assert got == []
            await kube.get("v1", "Pod", "p", "default")
        finally:
            await kube.close()
