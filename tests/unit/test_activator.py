"""The activator holds requests while a service has no pack, within bounds, and loses none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from activator_world import (
    BODY,
    CHAT,
    HOST,
    PIECES,
    SOON,
    TOKEN,
    FakePack,
    LargePack,
    Surroundings,
    free_port,
    surroundings,
)
from slm_operator.activator import body, gatekeeper, server
from slm_operator.activator.metrics import ActivatorMetrics
from slm_operator.activator.server import Activator, Settings
from slm_operator.activator.wire import Route
from slm_worker.routing import config
from slm_worker.routing.answers import SERVED_PATHS


def error(body: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(body)["error"]
    return found


async def test_requests_wait_and_all_are_answered_once_a_pack_is_ready() -> None:
    async with surroundings() as world:
        world.pack.go_on.set()
        sent = [world.send(headers={"X-Request-Id": f"r{i}"}) for i in range(20)]
        await world.waiting(20)
        async with world.pack.running():
            await world.route(HOST)
            answers = await asyncio.gather(*sent)
        assert {(status, body) for status, _, body in answers} == {(200, b"".join(PIECES))}
        assert sorted(h["X-Request-Id"] for h, _ in world.pack.seen) == sorted(
            f"r{i}" for i in range(20)
        )
        assert {json.loads(body)["model"] for _, body in world.pack.seen} == {"chat"}
        (door,) = (await world.held()).doors
        assert (door.waiting, door.passing, door.waiting_bytes) == (0, 0, 0)


async def test_an_answer_is_passed_on_piece_by_piece() -> None:
    async with surroundings() as world, world.pack.running():
        await world.route(HOST)
        url = f"http://{HOST}:{world.port}{CHAT}"
        async with asyncio.timeout(SOON), world.http.post(url, json=BODY) as answer:
            assert answer.headers["Content-Type"] == "text/event-stream"
            assert await answer.content.readuntil(b"\n\n") == PIECES[0]
            assert (await world.held()).doors[0].passing == 1
            world.pack.go_on.set()
            assert await answer.content.read() == b"".join(PIECES[1:])


async def test_a_connection_ends_with_the_first_answer_that_is_passed_on() -> None:
    async with surroundings() as world, world.pack.running():
        world.pack.go_on.set()
        _, headers, _ = await world.ask("/health", "GET")
        assert "Connection" not in headers, "nobody else would answer a new one either"
        await world.route(HOST)
        status, headers, _ = await world.ask()
        assert (status, headers["Connection"]) == (200, "close")


async def test_a_client_that_leaves_ends_the_request_at_the_pack() -> None:
    async with surroundings() as world, world.pack.running():
        await world.route(HOST)
        url = f"http://{HOST}:{world.port}{CHAT}"
        async with asyncio.timeout(SOON):
            async with world.http.post(url, json=BODY) as answer:
                await answer.content.readuntil(b"\n\n")
                answer.close()
            await world.pack.left.wait()


async def test_a_client_that_leaves_while_it_waits_makes_room() -> None:
    async with surroundings(requests=1) as world:
        world.send()
        await world.waiting(1)
        world.requests[0].cancel()
        await world.waiting(0)


async def test_an_answer_that_a_pack_cuts_does_not_look_complete() -> None:
    async with surroundings() as world, world.pack.running():
        await world.route(HOST)
        world.pack.breaks = True
        world.pack.go_on.set()
        with pytest.raises(aiohttp.ClientError):
            await world.ask()


@pytest.mark.parametrize(
    ("asked", "passed_on"),
    [
        ("/v1/models/a%2fb?x=%41+%20", "/v1/models/a%2fb?x=%41+%20"),
        ("/v1/../metrics", "/v1/../metrics"),
        ("/%6detrics", "/%6detrics"),
        ("//metrics", "//metrics"),
        ("http://chat.default.svc/v1/models?x=1", "/v1/models?x=1"),
    ],
)
async def test_a_path_is_passed_on_as_it_came(asked: str, passed_on: str) -> None:
    async with surroundings() as world, world.pack.running():
        world.pack.go_on.set()
        await world.route(HOST)
        async with world.beginning(f"GET {asked} HTTP/1.1\r\nHost: x\r\n\r\n") as (reader, _):
            assert b"200" in await reader.readline()
        assert world.pack.targets == [passed_on]


async def test_headers_that_are_for_the_next_hop_alone_end_at_the_activator() -> None:
    ends = {
        "Connection": "X-Hop, keep-alive",
        "X-Hop": "1",
        "Keep-Alive": "timeout=5",
        "Proxy-Authorization": "Basic c2VjcmV0",
        "Proxy-Authenticate": "Basic",
    }
    async with surroundings() as world, world.pack.running():
        world.pack.go_on.set()
        world.pack.headers = ends | {"X-Kept": "1"}
        await world.route(HOST)
        _, answered, _ = await world.ask(headers=ends | {"X-Kept": "1"})
        asked = world.pack.seen[0][0]
        for headers in (asked, answered):
            assert headers["X-Kept"] == "1"
            assert "X-Hop" not in headers.get("Connection", "")
            assert not headers.keys() & (ends.keys() - {"Connection"})


async def test_a_pack_that_takes_no_connection_is_tried_until_it_does() -> None:
    async with surroundings() as world:
        world.pack.go_on.set()
        await world.route(HOST)
        sent = world.send()
        await asyncio.sleep(gatekeeper.RETRY_SECONDS / 2)
        assert not sent.done()
        async with world.pack.running():
            assert (await sent)[0] == 200
        assert len(world.pack.seen) == 1


async def test_a_client_that_takes_nothing_of_its_answer_keeps_no_pack(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gatekeeper, "UNREAD_SECONDS", 0.2)
    async with surroundings() as world:
        pack = LargePack(world.pack.port)
        request = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        async with pack.running(), world.beginning(request):
            await world.route(HOST)
            await pack.left.wait()
            await world.passing(0)


async def test_a_pack_that_is_silent_for_too_long_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gatekeeper, "PACK_SILENCE_SECONDS", 0.2)
    async with surroundings() as world, world.pack.running(), asyncio.timeout(SOON):
        await world.route(HOST)
        with pytest.raises(aiohttp.ClientError):
            await world.ask()
        await world.passing(0)


class TestBounds:
    async def test_more_requests_than_may_wait_are_refused_with_429(self) -> None:
        async with surroundings(requests=3) as world:
            for _ in range(3):
                world.send()
            await world.waiting(3)
            status, headers, body = await world.ask(headers={"X-Request-Id": "mine"})
            assert (status, headers["Retry-After"], headers["X-Request-Id"]) == (429, "5", "mine")
            assert error(body)["type"] == "rate_limit_exceeded"
            assert (await world.held()).doors[0].waiting == 3

    @pytest.mark.parametrize(("own", "total"), [(1000, 1 << 20), (1 << 20, 1000)])
    async def test_so_are_bodies_that_are_too_large_together(self, own: int, total: int) -> None:
        async with surroundings(bytes=own, total_bytes=total) as world:
            world.send(json=None, data=b"x" * 600)
            await world.waiting(1)
            assert (await world.ask(json=None, data=b"x" * 600))[0] == 429
            world.send(json=None, data=b"x" * 400)
            await world.waiting(2)

    async def test_what_waited_too_long_is_refused_with_503(self) -> None:
        async with surroundings(seconds=0.05) as world:
            status, headers, body = await world.ask()
            assert (status, headers["Retry-After"]) == (503, "1")
            assert error(body)["type"] == "service_unavailable"
            await world.waiting(0)

    async def test_so_is_what_no_ready_pack_took_a_connection_for(self) -> None:
        async with surroundings(seconds=0.3) as world, asyncio.timeout(SOON):
            await world.route(HOST)
            status, headers, body = await world.ask()
            assert (status, headers["Retry-After"]) == (503, "1")
            assert error(body)["type"] == "service_unavailable"
            (door,) = (await world.held()).doors
            assert (door.waiting, door.passing, door.waiting_bytes) == (0, 0, 0)

    async def test_a_body_without_a_length_is_refused(self) -> None:
        async def body() -> AsyncIterator[bytes]:
            yield b"{}"

        async with surroundings() as world:
            status, _, text = await world.ask(json=None, data=body())
            assert (status, error(text)["type"]) == (411, "length_required")

    async def test_headers_that_do_not_come_to_an_end_are_cut(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server, "IDLE_SECONDS", 0.1)
        async with (
            surroundings() as world,
            world.beginning(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n") as (reader, _),
        ):
            assert await reader.read() == b""

    async def test_a_single_body_is_no_larger_than_the_routers_take(self) -> None:
        async with surroundings(bytes=1 << 30, total_bytes=1 << 30) as world:
            large = b"x" * (gatekeeper.MAX_REQUEST_BYTES + 1)
            assert (await world.ask(json=None, data=large))[0] == 413

    @pytest.mark.parametrize(("own", "total"), [(1000, 1 << 20), (1 << 20, 1000)])
    async def test_one_that_never_has_room_is_refused_for_good(self, own: int, total: int) -> None:
        async with surroundings(bytes=own, total_bytes=total) as world:
            status, headers, text = await world.ask(json=None, data=b"x" * 1001)
            assert (status, error(text)["type"]) == (413, "request_too_large")
            assert "1000 bytes" in error(text)["message"]
            assert "Retry-After" not in headers

    async def test_headers_may_be_as_large_as_the_routers_take_them(self) -> None:
        async with surroundings() as world:
            token = "a" * 12_000
            world.pack.go_on.set()
            sent = world.send(headers={"Authorization": token})
            await world.waiting(1)
            async with world.pack.running():
                await world.route(HOST)
                assert (await sent)[0] == 200
            assert world.pack.seen[0][0]["Authorization"] == token

    async def test_larger_ones_take_no_memory(self) -> None:
        async with surroundings() as world:
            many = {f"X-{number}": "x" * 9000 for number in range(2)}
            status, _, text = await world.ask(headers=many)
            assert (status, error(text)["type"]) == (431, "request_too_large")
            assert (await world.held()).doors[0].waiting == 0


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/health"),
        ("GET", "/v1/models"),
        ("POST", "/wp-login.php"),
        ("POST", "/v1/chat%2Fcompletions"),
    ],
)
async def test_what_takes_no_place_in_a_batch_neither_waits_nor_starts_a_pack(
    method: str, path: str
) -> None:
    async with surroundings() as world, asyncio.timeout(SOON):
        status, headers, _ = await world.ask(path, method)
        assert (status, headers["Retry-After"]) == (503, "1")
        assert (await world.held()).doors[0].waiting == 0


def test_what_waits_is_served_by_the_packs() -> None:
    assert set(gatekeeper.WAITING_PATHS) < set(SERVED_PATHS)


def test_bounds_of_one_request_are_those_of_the_packs_routers() -> None:
    assert config.MAX_REQUEST_BYTES == gatekeeper.MAX_REQUEST_BYTES
    assert config.DEFAULT_TIMEOUTS.body_seconds == body.SILENCE_SECONDS
    assert config.DEFAULT_TIMEOUTS.idle_seconds == gatekeeper.UNREAD_SECONDS
    assert config.RESPONSE_TIMEOUT_SECONDS * 2 < gatekeeper.PACK_SILENCE_SECONDS
    assert config.KEEP_ALIVE_SECONDS == server.IDLE_SECONDS


async def test_another_service_never_gets_what_waits_on_a_port_that_was_given_to_it() -> None:
    async with surroundings() as world, world.pack.running():
        world.pack.go_on.set()
        sent = world.send()
        await world.waiting(1)
        await world.route(HOST, name="other")
        assert (await sent)[0] == 503
        assert world.pack.seen == []


async def test_a_port_that_is_taken_away_refuses_what_waits() -> None:
    async with surroundings() as world:
        sent = world.send()
        await world.waiting(1)
        assert (await world.call("DELETE", f"/v1/routes/{world.port}"))[0] == 204
        assert (await sent)[0] == 503
        assert (await world.held()).doors == ()


async def test_an_activator_that_ends_refuses_what_waits() -> None:
    async with aiohttp.ClientSession() as http:
        control = free_port()
        async with Activator(Settings(TOKEN, HOST, control)):
            world = Surroundings(http, control, FakePack())
            await world.route()
            sent = world.send()
            await world.waiting(1)
        assert (await sent)[0] == 503


class TestControl:
    @pytest.mark.parametrize("method_and_path", ["GET /v1/held", "PUT /v1/routes/9", "GET /none"])
    async def test_without_the_token_nothing_is_told_or_done(self, method_and_path: str) -> None:
        async with surroundings() as world:
            method, path = method_and_path.split()
            status, _ = await world.call(method, path, token="x" * 32)
            assert status == 401

    async def test_a_route_that_cannot_be_read_is_refused(self) -> None:
        async with surroundings() as world:
            status, text = await world.call("PUT", "/v1/routes/9", '{"name": "chat"}')
            assert status == 422 and "namespace" in text

    async def test_a_port_that_is_taken_is_refused_by_name(self) -> None:
        async with surroundings() as world, world.pack.running():
            route = Route(namespace="default", name="chat").model_dump_json()
            status, text = await world.call("PUT", f"/v1/routes/{world.pack.port}", route)
            assert status == 409 and str(world.pack.port) in text


class TestMetrics:
    async def test_tell_what_waits_and_what_became_of_it(self) -> None:
        async with surroundings(requests=2) as world:
            assert await world.counted("requests_released_total") == 0
            sent = [world.send(), world.send()]
            await world.waiting(2)
            assert await world.counted("requests_waiting") == 2
            assert await world.counted("waiting_bytes") == 2 * len(json.dumps(BODY))
            assert (await world.ask())[0] == 429
            assert (await world.ask("/v1/models", "GET"))[0] == 503
            sent[1].cancel()
            await world.waiting(1)
            world.pack.go_on.set()
            async with world.pack.running():
                await world.route(HOST)
                await sent[0]
            assert await world.counted("requests_waiting") == 0
            assert await world.counted("requests_released_total") == 1
            assert await world.counted("requests_left_total") == 1
            assert await world.counted("wait_seconds_count") == 1
            assert await world.counted("requests_refused_total", reason="Full") == 1
            assert await world.counted("requests_refused_total", reason="Asleep") == 1

    async def test_of_a_service_go_with_its_port(self) -> None:
        async with surroundings() as world:
            assert (await world.ask("/v1/models", "GET"))[0] == 503
            await world.route(name="other")
            assert await world.counted("requests_refused_total", reason="Asleep") is None
            assert await world.counted("requests_released_total") is None
            assert await world.counted("requests_released_total", name="other") == 0
            await world.call("DELETE", f"/v1/routes/{world.port}")
            assert await world.counted("requests_waiting", name="other") is None
            assert await world.counted("requests_left_total", name="other") is None


def test_a_service_that_changes_its_port_keeps_its_counters() -> None:
    metrics, owner = ActivatorMetrics(lambda: ()), ("default", "chat")
    name, of = "slm_activator_requests_released_total", {"namespace": "default", "name": "chat"}
    metrics.show(owner)
    metrics.released(owner, 1.0)
    metrics.show(owner)
    metrics.forget(owner)
    assert metrics.registry.get_sample_value(name, of) == 1
    metrics.forget(owner)
    metrics.released(owner, 1.0)
    assert metrics.registry.get_sample_value(name, of) is None
