"""Clients that misbehave at the router, and what is counted of all."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from router_rig import Client, Rig, four_engines, queued, until, works_on
from slm_worker.routing.config import ClientTimeouts
from slm_worker.routing.router import Router
from slm_worker.wire import RouterState, Routing

MORE_THAN_ALL_BUFFERS = 64
"""MiB; Linux lets a connection's two ends grow to some ten."""
PATIENCE_SECONDS = 3
"""With slow clients. The others are of this process, which a busy machine may stop for a second
between their connection and what they send."""


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """The first two engines are admitted."""
    async with four_engines(tmp_path / "router") as rig:
        await rig[0].admit(0)
        await rig[0].admit(1)
        yield rig


@pytest.fixture
async def impatient(tmp_path: Path) -> AsyncIterator[Rig]:
    """Clients are given PATIENCE_SECONDS, and the first two engines are admitted."""
    timeouts = ClientTimeouts(
        header_seconds=PATIENCE_SECONDS,
        body_seconds=PATIENCE_SECONDS,
        idle_seconds=PATIENCE_SECONDS,
    )
    async with four_engines(tmp_path / "router", timeouts, keep_connections=False) as rig:
        await rig[0].admit(0)
        await rig[0].admit(1)
        yield rig


async def connect(client: Client) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", URL(client.base).port)


async def begin_headers(client: Client) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """At once: a connection that brings nothing in time is no request."""
    reader, writer = await connect(client)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: ")
    return reader, writer


def post(query: str = "", body: bytes = b"{}") -> bytes:
    head = f"POST /v1/completions{query} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def counted(router: Router, requests: int) -> RouterState:
    """Once that many requests have come and all have ended."""

    async def ended() -> bool:
        await router.tend(Routing())
        return router.state.requests == requests and router.state.in_progress == 0

    await until(ended)
    return router.state


async def begun(router: Router, answers: int) -> None:
    """Once so many answers have begun."""

    async def holds() -> bool:
        await router.tend(Routing())
        return sum(one.served for one in router.state.replicas) == answers

    await until(holds)


class TestSlowness:
    async def test_one_that_never_reads_its_stream_is_cut_and_blocks_nobody(
        self, impatient: Rig
    ) -> None:
        router, engines, client = impatient
        silent = socket.create_connection(("127.0.0.1", URL(client.base).port))
        silent.sendall(post(f"?mebibytes={MORE_THAN_ALL_BUFFERS}"))
        await works_on(engines[0], 1)
        assert await client.complete() == (200, "r0")
        await works_on(engines[0], 0)
        assert engines[0].served == 1
        assert await client.complete() == (200, "r0")
        state = await counted(router, 3)
        assert (state.served, state.left) == (3, 1)
        silent.close()

    async def test_a_silent_engine_is_waited_for_longer_than_a_client(self, impatient: Rig) -> None:
        _, _, client = impatient
        assert await client.complete(seconds=1.5 * PATIENCE_SECONDS) == (200, "r0")

    async def test_headers_that_never_end_are_refused_and_block_nobody(
        self, impatient: Rig
    ) -> None:
        router, engines, client = impatient
        slow = [await begin_headers(client) for _ in range(200)]
        assert await client.complete() == (200, "r0")
        for reader, writer in slow:
            assert b" 408 " in await reader.readline()
            writer.close()
        assert engines[0].asked == 1
        assert (await counted(router, 201)).answered_4xx == 200

    async def test_a_body_that_never_comes_takes_no_place(self, impatient: Rig) -> None:
        _, engines, client = impatient
        reader, writer = await connect(client)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        assert b" 408 " in await reader.readline()
        writer.close()
        assert engines[0].asked == 0


class TestAccount:
    """``requests`` is the sum of what became of them."""

    async def test_whole_answers_refusals_and_those_that_left(self, rig: Rig) -> None:
        router, engines, client = rig
        assert (await client.complete())[0] == 200
        async with client.session.get(f"{client.base}/metrics") as response:
            assert response.status == 404
        for engine in engines:
            engine.gate.clear()
        before_answer = asyncio.create_task(client.complete())
        within_answer = asyncio.create_task(client.stream())
        await works_on(engines[0], 2)
        tasks = [asyncio.create_task(client.complete()) for _ in range(6)]
        await works_on(engines[1], 4)
        in_queue = asyncio.create_task(client.complete())
        await queued(router, 1)
        in_queue.cancel()
        await queued(router, 0)
        await begun(router, 2)
        before_answer.cancel()
        within_answer.cancel()
        await works_on(engines[0], 2)
        for engine in engines:
            engine.gate.set()
        await asyncio.gather(*tasks)

        state = await counted(router, 11)
        assert (state.served, state.answered_4xx, state.answered_5xx) == (8, 2, 0)
        assert (state.unanswered, state.left) == (1, 2)
        assert sum(one.served for one in state.replicas) == 8

    async def test_answers_that_a_death_cut_or_prevented(self, rig: Rig) -> None:
        router, engines, client = rig
        engines[0].gate.clear()
        stream = asyncio.create_task(client.stream())
        answer = asyncio.create_task(client.complete())
        await works_on(engines[0], 2)
        await begun(router, 1)
        await engines[0].kill()
        with pytest.raises(aiohttp.ClientPayloadError):
            await stream
        assert (await answer)[0] == 502
        assert await client.complete() == (200, "r1")

        state = await counted(router, 3)
        assert (state.served, state.answered_5xx, state.cut) == (2, 1, 1)
        dead = state.replicas[0]
        assert (dead.served, dead.failed, dead.cut) == (1, 1, 1)

    async def test_what_was_tried_elsewhere(self, rig: Rig) -> None:
        router, engines, client = rig
        await engines[0].kill()
        assert await client.complete() == (200, "r1")
        state = await counted(router, 1)
        assert state.served == 1
        assert state.retried >= 1
        assert state.replicas[0].retried == state.retried


class TestWork:
    async def test_what_asks_for_a_place_in_a_batch_is_counted_once_even_if_it_was_held(
        self, rig: Rig
    ) -> None:
        router, _, client = rig
        await router.drain(0)
        await router.drain(1)
        held = [asyncio.create_task(client.complete()) for _ in range(20)]
        await queued(router, 20)
        await router.admit(0)
        await asyncio.gather(*held)
        for path in ("/v1/models", "/health", "/nowhere"):
            async with client.session.get(f"{client.base}{path}") as answer:
                await answer.read()
        assert (await counted(router, 23)).batchable == 20
