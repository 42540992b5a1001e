"""What the agent takes for an answer of an engine, over a server whose answers the test decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from slm_worker.engine import client
from slm_worker.engine.client import EngineClient, EngineNotAnsweringError

TIMEOUT_SECONDS = 0.05


class FakeServer:
    """Answers every request with ``status``, or never where it is None."""

    def __init__(self) -> None:
        self.status: int | None = 200
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.method} {request.path}")
        if self.status is None:
            await asyncio.Event().wait()
        return web.json_response({"is_sleeping": True}, status=self.status or 200)


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
async def engine(server: FakeServer) -> AsyncIterator[EngineClient]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    async with TestServer(app) as listening, aiohttp.ClientSession() as http:
        yield EngineClient(http, str(listening.host), listening.port or 0, "m")


async def test_a_sleeper_is_asked_whether_it_sleeps(
    engine: EngineClient, server: FakeServer
) -> None:
    await engine.answer_asleep(1.0)
    assert server.asked == ["GET /is_sleeping"]


async def test_a_server_that_does_not_know_the_question_has_answered_it(
    engine: EngineClient, server: FakeServer
) -> None:
    server.status = 404
    await engine.answer_asleep(1.0)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        pytest.param(None, "GET /is_sleeping took longer than", id="no answer"),
        pytest.param(500, "GET /is_sleeping was answered with 500", id="an error"),
    ],
)
async def test_a_sleeper_without_a_good_answer_may_be_hung(
    engine: EngineClient, server: FakeServer, status: int | None, message: str
) -> None:
    server.status = status
    with pytest.raises(EngineNotAnsweringError, match=message):
        await engine.answer_asleep(TIMEOUT_SECONDS)


async def test_counters_that_do_not_come_in_time_are_named_so(
    engine: EngineClient, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "SCRAPE_TIMEOUT_SECONDS", TIMEOUT_SECONDS)
    server.status = None
    with pytest.raises(EngineNotAnsweringError, match="no counters: no answer in time"):
        await engine.scrape()
