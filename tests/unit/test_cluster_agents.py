"""What an agent is asked, and what is made of its answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from builders import pack_state
from slm_operator.cluster import agents as subject
from slm_operator.cluster.agents import AgentError, Agents, open_session
from slm_operator.cluster.permit import Permit
from slm_operator.keys import Tokens


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
        assert await client.state(address, Tokens("t")) == state
    assert asked == [URL(url)]


async def test_a_redirect_is_a_failure_and_the_token_goes_no_further(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    redirect = web.Response(status=307, headers={"Location": "/elsewhere"}, text="over there")
    async with agents(redirect, monkeypatch) as (client, paths, _):
        with pytest.raises(AgentError, match="AgentFailed: the agent answered 307: over there"):
            await client.state("10.0.0.7", Tokens("t"))
    assert paths == ["/v1/pack"]


async def test_agents_that_do_not_answer_keep_no_other_from_being_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hanging, answered = asyncio.Event(), asyncio.Event()
    asked = 0

    async def handle(request: web.Request) -> web.Response:
        nonlocal asked
        if request.headers["Authorization"] == "Bearer quick":
            return web.Response(text=pack_state().model_dump_json())
        asked += 1
        if asked == 150:
            hanging.set()
        await answered.wait()
        return web.Response(status=503)

    app = web.Application()
    app.router.add_get("/v1/pack", handle)
    async with TestServer(app) as server, open_session(Permit.unlimited()) as session:
        send = session.request
        monkeypatch.setattr(
            session, "request", lambda m, _, **o: send(m, server.make_url("/v1/pack"), **o)
        )
        client = Agents(session)
        async with asyncio.TaskGroup() as tasks:
            silent = [tasks.create_task(_refused(client)) for _ in range(150)]
            await hanging.wait()
            assert await client.state("10.0.0.7", Tokens("quick")) == pack_state()
            assert not any(task.done() for task in silent)
            answered.set()


async def _refused(client: Agents) -> None:
    with pytest.raises(AgentError):
        await client.state("10.0.0.8", Tokens("silent"))


@pytest.mark.parametrize(
    ("pauses_seconds", "reason"),
    [([0.1] * 3, None), ([30.0], "AgentUnreachable"), ([0.1] * 100, "AgentUnreachable")],
    ids=["slow but going on", "silent", "trickling"],
)
async def test_an_agent_is_given_up_when_it_falls_silent_or_never_ends(
    monkeypatch: pytest.MonkeyPatch, pauses_seconds: list[float], reason: str | None
) -> None:
    monkeypatch.setattr(subject, "PATIENCE", aiohttp.ClientTimeout(total=2.0, sock_read=1.0))

    async def handle(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        text = pack_state().model_dump_json().encode()
        for pause in pauses_seconds:
            await asyncio.sleep(pause)
            await answer.write(b" ")
        await answer.write(text)
        return answer

    app = web.Application()
    app.router.add_get("/v1/pack", handle)
    async with TestServer(app) as server, open_session(Permit.unlimited()) as session:
        assert server.port is not None
        client = Agents(session, server.port)
        if reason is None:
            assert await client.state("127.0.0.1", Tokens("t")) == pack_state()
        else:
            with pytest.raises(AgentError, match=reason):
                await client.state("127.0.0.1", Tokens("t"))


async def test_an_answer_may_come_in_pieces_that_end_inside_a_character() -> None:
    refusal = json.dumps({"reason": "TooLarge", "message": "größer"}, ensure_ascii=False).encode()

    async def handle(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(status=422)
        await answer.prepare(request)
        for at in range(len(refusal)):
            await answer.write(refusal[at : at + 1])
            await asyncio.sleep(0.001)
        return answer

    app = web.Application()
    app.router.add_get("/v1/pack", handle)
    async with TestServer(app) as server, open_session(Permit.unlimited()) as session:
        assert server.port is not None
        with pytest.raises(AgentError) as raised:
            await Agents(session, server.port).state("127.0.0.1", Tokens("t"))
    assert raised.value.message == "größer"


@pytest.mark.parametrize(
    ("known_to_the_agent", "tried", "reason"),
    [
        ("new", ["new"], None),
        ("old", ["new", "old"], None),
        ("another", ["new", "old"], "AgentRefusedToken"),
    ],
    ids=["the Secret has arrived", "the Secret is on its way", "somebody changed the Secret"],
)
async def test_the_former_token_is_tried_after_the_current_one(
    known_to_the_agent: str, tried: list[str], reason: str | None
) -> None:
    seen: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"].removeprefix("Bearer "))
        if seen[-1] != known_to_the_agent:
            return web.Response(status=401)
        return web.Response(text=pack_state().model_dump_json())

    app = web.Application()
    app.router.add_get("/v1/pack", handle)
    async with TestServer(app) as server, open_session(Permit.unlimited()) as session:
        assert server.port is not None
        client = Agents(session, server.port)
        if reason is None:
            assert await client.state("127.0.0.1", Tokens("new", "old")) == pack_state()
        else:
            with pytest.raises(AgentError, match=reason):
                await client.state("127.0.0.1", Tokens("new", "old"))
    assert seen == tried
