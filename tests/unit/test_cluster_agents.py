"""What an agent is asked, and what is made of its answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from builders import pack_state
from slm_operator.cluster.agents import AgentError, Agents


@asynccontextmanager
async def agents(
    answer: web.Response, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Agents, list[str], list[URL]]]:
    """Agents whose every request goes to one server; the paths it saw, and the URLs asked for."""
    paths: list[str] = []
    asked: list[URL] = []

    async def handle(request: web.Request) -> web.Response:
        paths.append(request.path)
        return answer if len(paths) == 1 else web.Response(text="followed")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)

    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        send = session.request

        def request(method: str, url: str, **options: Any) -> Any:
            asked.append(URL(url))
            return send(method, server.make_url(asked[-1].path), **options)

        monkeypatch.setattr(session, "request", request)
        yield Agents(session), paths, asked


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("10.0.0.7", "http://10.0.0.7:8080/v1/pack"),
        ("fd00::7", "http://[fd00::7]:8080/v1/pack"),
    ],
)
async def test_an_agent_is_asked_at_its_address(
    address: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = pack_state()
    async with agents(web.Response(text=state.model_dump_json()), monkeypatch) as (
        client,
        _,
        asked,
    ):
        assert await client.state(address, "t") == state
    assert asked == [URL(url)]


async def test_a_redirect_is_a_failure_and_the_token_goes_no_further(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    redirect = web.Response(status=307, headers={"Location": "/elsewhere"}, text="over there")
    async with agents(redirect, monkeypatch) as (client, paths, _):
        with pytest.raises(AgentError, match="AgentFailed: the agent answered 307: over there"):
            await client.state("10.0.0.7", "t")
    assert paths == ["/v1/pack"]
