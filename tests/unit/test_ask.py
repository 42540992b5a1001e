"""What counts as a completion, and what is said when none comes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from slm_operator import ask
from slm_operator.ask import NoAnswer, completion, until_answered

WHOLE = {"choices": [{"message": {"content": "a word"}, "finish_reason": "stop"}]}


class Service:
    """Answers with what it is given, in turn; the last one again and again."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any]] = []
        self.asked: list[Any] = []
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        self.server = TestServer(app)

    @property
    def url(self) -> str:
        return str(self.server.make_url(""))

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append(await request.json())
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return web.json_response(body, status=status)


@pytest_asyncio.fixture
async def service(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    monkeypatch.setattr(ask, "RETRY_SECONDS", 0.01)
    service = Service()
    async with service.server:
        yield service


async def test_it_asks_again_until_the_service_serves(service: Service) -> None:
    service.answers = [(503, {}), (200, WHOLE)]
    assert await until_answered(service.url, "chat", timeout_seconds=30) == "a word"
    assert [each["model"] for each in service.asked] == ["chat", "chat"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((503, {"error": "no replica"}), "503.*no replica"),
        ((200, {}), "without a choice"),
        ((200, ["text"]), "without a choice"),
        ((200, {"choices": []}), "without a choice"),
        (
            (200, {"choices": [{"message": {"content": "a"}, "finish_reason": None}]}),
            "not whole",
        ),
        (
            (200, {"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}),
            "not whole",
        ),
    ],
    ids=["refused", "an empty object", "a list", "no choice", "cut off", "no text"],
)
async def test_what_is_no_completion_is_said(
    service: Service, answer: tuple[int, Any], said: str
) -> None:
    service.answers = [answer]
    with pytest.raises(NoAnswer, match=said):
        await until_answered(service.url, "chat", timeout_seconds=0.05)


async def test_a_service_that_is_not_there_is_no_answer(service: Service) -> None:
    await service.server.close()
    async with aiohttp.ClientSession() as session:
        with pytest.raises(NoAnswer, match="ClientConnectorError"):
            await completion(session, "http://127.0.0.1:9", "chat")
