"""The saturating load against a small server."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from ports import free_port
from slm_worker.load import FIRST_BACKOFF_SECONDS, SaturatingLoad


class Server:
    def __init__(self) -> None:
        self.port = free_port()
        self.status = 200
        self.gate = asyncio.Event()
        self.in_flight = 0
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[str | None] = []

    async def complete(self, request: web.Request) -> web.Response:
        self.bodies.append(json.loads(await request.read()))
        self.headers.append(request.headers.get("X-SLM-Load"))
        self.in_flight += 1
        try:
            await self.gate.wait()
            await asyncio.sleep(0.001)
        finally:
            self.in_flight -= 1
        return web.Response(status=self.status, text="out of order")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_post("/v1/completions", server.complete)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", server.port).start()
    yield server
    await runner.cleanup()


@pytest.fixture
async def load(server: Server) -> AsyncIterator[SaturatingLoad]:
    load = SaturatingLoad(
        url=f"http://127.0.0.1:{server.port}",
        model_name="tiny",
        prompt_tokens=12,
        output_tokens=20,
        rng=random.Random(3),
    )
    yield load
    await load.stop()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not holds():
            await asyncio.sleep(0.01)


async def test_it_keeps_the_wanted_number_in_flight(server: Server, load: SaturatingLoad) -> None:
    await load.set_concurrency(150)
    await until(lambda: server.in_flight == 150)
    await load.set_concurrency(40)
    await until(lambda: server.in_flight == 40)
    assert load.state().cancelled == 110
    await load.set_concurrency(60)
    await until(lambda: server.in_flight == 60)
    assert load.state().in_flight == 60


async def test_it_sends_the_next_when_one_ends(server: Server, load: SaturatingLoad) -> None:
    server.gate.set()
    await load.set_concurrency(4)
    await until(lambda: load.state().completed >= 40)
    assert load.state().in_flight <= 4


async def test_every_request_ends_in_one_count(server: Server, load: SaturatingLoad) -> None:
    server.gate.set()
    await load.set_concurrency(16)
    await until(lambda: load.state().completed >= 50)
    await load.stop()
    state = load.state()
    assert state.in_flight == 0
    assert state.sent == state.completed + state.cancelled
    assert (state.failed, state.last_failure) == (0, "")


async def test_prompts_are_random_and_lengths_vary_around_the_wanted(
    server: Server, load: SaturatingLoad
) -> None:
    server.gate.set()
    await load.set_concurrency(8)
    await until(lambda: len(server.bodies) >= 200)
    prompts = [tuple(body["prompt"]) for body in server.bodies]
    assert {len(prompt) for prompt in prompts} == {12}
    assert len(set(prompts)) == len(prompts)
    assert all(100 <= token < 30_000 for prompt in prompts for token in prompt)
    lengths = {body["max_tokens"] for body in server.bodies}
    assert (min(lengths), max(lengths)) == (10, 30)
    body = server.bodies[0]
    assert body["min_tokens"] == body["max_tokens"]
    assert (body["model"], body["ignore_eos"], body["temperature"]) == ("tiny", True, 0)
    assert set(server.headers) == {"1"}


async def test_failures_are_counted_named_and_back_off(
    server: Server, load: SaturatingLoad
) -> None:
    server.gate.set()
    server.status = 503
    loop = asyncio.get_running_loop()
    began = loop.time()
    await load.set_concurrency(3)
    await until(lambda: load.state().failed >= 9)
    assert loop.time() - began >= 0.99 * (FIRST_BACKOFF_SECONDS + 2 * FIRST_BACKOFF_SECONDS)
    assert load.state().last_failure == "HTTP 503: out of order"
    server.status = 200
    failed = load.state().failed
    await until(lambda: load.state().completed >= 3)
    assert load.state().failed <= failed + 3, "those that were under way"


async def test_the_first_failure_of_each_kind_is_logged_and_again_a_minute_later(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    now_seconds = 0.0
    load = SaturatingLoad(
        url=f"http://127.0.0.1:{server.port}",
        model_name="tiny",
        prompt_tokens=1,
        output_tokens=1,
        rng=random.Random(3),
        clock=lambda: now_seconds,
    )
    server.gate.set()
    await load.set_concurrency(4)
    for at_seconds, status, kinds in (
        (0.0, 503, [503]),
        (59.0, 400, [503, 400]),
        (60.0, 503, [503, 400, 503]),
    ):
        server.status, now_seconds = status, at_seconds
        failed = load.state().failed
        await until(lambda failed=failed: load.state().failed >= failed + 12)  # type: ignore[misc]
        assert [r.getMessage() for r in caplog.records] == [
            f"a request of the calibration load failed: HTTP {kind}: out of order" for kind in kinds
        ]
    await load.stop()


async def test_an_unreachable_router_is_a_failure() -> None:
    load = SaturatingLoad(
        url=f"http://127.0.0.1:{free_port()}",
        model_name="tiny",
        prompt_tokens=1,
        output_tokens=1,
        rng=random.Random(3),
    )
    await load.set_concurrency(1)
    await until(lambda: load.state().failed >= 1)
    await load.stop()
    assert "ClientConnectorError" in load.state().last_failure


async def test_it_can_start_again_after_a_stop(server: Server, load: SaturatingLoad) -> None:
    await load.set_concurrency(2)
    await until(lambda: server.in_flight == 2)
    await load.stop()
    await load.set_concurrency(3)
    await until(lambda: server.in_flight == 3)
    assert load.state().cancelled == 2


async def test_a_negative_concurrency_is_named(load: SaturatingLoad) -> None:
    with pytest.raises(ValueError, match="concurrency -1 is negative"):
        await load.set_concurrency(-1)
