"""What agent and operator take from strangers is bounded before anything is done with it."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp.test_utils import TestClient, TestServer

from fake_agent import BEARER, TOKEN, Client, FakeAgent
from slm_operator import main
from slm_operator.cluster.permit import Permit
from slm_operator.metrics import Metrics
from slm_worker.server import MAX_BODY_BYTES, make_app

LINE_BYTES = 8190
"""aiohttp's limit of the request line and of each header."""
HEADERS = 128
"""aiohttp's limit of their number."""


@pytest.fixture
def agent() -> FakeAgent:
    return FakeAgent()


@pytest.fixture
async def client(agent: FakeAgent) -> AsyncIterator[Client]:
    async with TestClient(TestServer(make_app(agent, lambda: TOKEN))) as client:
        yield client


@pytest.fixture
async def operator(unused_tcp_port: int) -> AsyncIterator[str]:
    """The URL of the operator's health port."""
    runner = await main._serve_health(Metrics(), Permit.unlimited(), "127.0.0.1", unused_tcp_port)
    yield f"http://127.0.0.1:{unused_tcp_port}"
    await runner.cleanup()


OVERSIZED = [
    pytest.param("/v1/pack?" + "x" * LINE_BYTES, {}, id="request line"),
    pytest.param("/v1/pack", {"X-Long": "x" * (LINE_BYTES + 1)}, id="one header"),
    pytest.param("/v1/pack", {f"X-{n}": "1" for n in range(HEADERS + 1)}, id="many headers"),
]


@pytest.mark.parametrize(("path", "headers"), OVERSIZED)
async def test_the_agent_refuses_before_it_asks_for_the_token(
    path: str, headers: dict[str, str], client: Client
) -> None:
    async with client.get(path, headers=headers) as answer:
        assert answer.status == 400


@pytest.mark.parametrize(("path", "headers"), OVERSIZED)
async def test_so_does_the_operators_health_port(
    path: str, headers: dict[str, str], client: Client, operator: str
) -> None:
    async with client.session.get(operator + path, headers=headers) as answer:
        assert answer.status == 400


async def test_the_operators_health_port_takes_no_body(client: Client, operator: str) -> None:
    async with client.session.post(f"{operator}/metrics", data=b"x" * 1024) as answer:
        assert answer.status == 405


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress], ids=["gzip", "deflate"])
async def test_a_small_body_that_unpacks_to_a_large_one_is_too_large(
    pack: Callable[[bytes], bytes], client: Client, agent: FakeAgent
) -> None:
    body = pack(b" " * 100 * MAX_BODY_BYTES)
    assert len(body) < MAX_BODY_BYTES
    encoding = "gzip" if pack is gzip.compress else "deflate"
    headers = BEARER | {"Content-Encoding": encoding}
    async with client.put("/v1/pack/plan", data=body, headers=headers) as answer:
        assert answer.status == 413
    assert agent.accepted == []
