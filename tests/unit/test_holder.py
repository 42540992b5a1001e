"""A request that is held is what it would be if it were not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from slm_worker.routing.config import HOLD_SOCKET, RELAY_SOCKET
from slm_worker.routing.holder import Holder

NEARLY_A_BUFFER = 12_000
"""Bytes of one header, which HAProxy takes within its buffer of 16 KiB: a large token."""
HAPROXY_BUFFER_BYTES = 16 * 1024


@pytest.fixture
async def hold(tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """Where HAProxy hands a request to the holder, which may pass it on at once to a router that
    answers with the request's id and the length of its target."""

    async def answer(request: web.Request) -> web.Response:
        sent_back = {"X-Request-Id": request.headers.get("X-Request-Id", "")}
        return web.Response(text=str(len(request.raw_path)), headers=sent_back)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    router = web.AppRunner(
        app, max_line_size=HAPROXY_BUFFER_BYTES, max_field_size=HAPROXY_BUFFER_BYTES
    )
    await router.setup()
    await web.UnixSite(router, str(tmp_path / RELAY_SOCKET)).start()
    holder = Holder(run_dir=tmp_path, hold_timeout_seconds=5)
    await holder.start()
    holder.open()
    async with aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(path=str(tmp_path / HOLD_SOCKET)),
        max_field_size=HAPROXY_BUFFER_BYTES,
    ) as session:
        yield session
    await holder.stop()
    await router.cleanup()


async def test_a_header_may_be_as_large_as_haproxy_takes_it(hold: aiohttp.ClientSession) -> None:
    large = {"Authorization": "a" * NEARLY_A_BUFFER}
    async with hold.post("http://r/v1/completions", headers=large) as answer:
        assert answer.status == 200


async def test_so_may_the_request_line(hold: aiohttp.ClientSession) -> None:
    async with hold.post("http://r/v1/completions?x=" + "a" * NEARLY_A_BUFFER) as answer:
        assert (answer.status, int(await answer.text()) > NEARLY_A_BUFFER) == (200, True)


async def test_so_may_a_header_of_the_answer(hold: aiohttp.ClientSession) -> None:
    """The router sends the request's id back."""
    large = {"X-Request-Id": "a" * NEARLY_A_BUFFER}
    async with hold.post("http://r/v1/completions", headers=large) as answer:
        assert (answer.status, answer.headers["X-Request-Id"]) == (200, large["X-Request-Id"])
