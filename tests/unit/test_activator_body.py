"""A body is in the activator's memory, and counts there, until a pack has taken it."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import tracemalloc
from collections.abc import AsyncIterator

import pytest

from activator_world import BODY, CHAT, HOST, SlowPack, Surroundings, free_port, surroundings
from slm_operator.activator import body, server

LARGE = b"x" * (12 << 20)
"""More than the sockets between two processes of a host keep."""
MEDIUM = bytes(range(256)) * 2500
"""Of several pieces; no larger than a stand-in for a pack takes."""
ROOM_BYTES = 16 << 20


def head(length: int) -> str:
    return f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"


async def test_a_body_that_is_only_announced_takes_no_room() -> None:
    async with surroundings(1000, bytes=1000, requests=1) as world, world.beginning(head(1000)):
        sent = world.send()
        await world.bodies(len(json.dumps(BODY)))
        await world.waiting(1)
        assert not sent.done()


async def test_nothing_waits_and_so_starts_a_pack_before_its_body_is_there() -> None:
    async with surroundings() as world, world.beginning(head(2) + "{") as (_, writer):
        await world.bodies(1)
        assert (await world.held()).doors[0].waiting == 0
        writer.write(b"}")
        await world.waiting(1)
        assert (await world.held()).doors[0].waiting_bytes == 2


async def test_a_body_that_finds_no_room_while_it_comes_is_refused_with_429() -> None:
    async with surroundings(1000) as world, world.beginning(head(600)) as (reader, writer):
        world.send(json=None, data=b"x" * 600)
        await world.waiting(1)
        writer.write(b"x" * 600)
        assert b"429" in await reader.readline()
        await world.bodies(600)


async def test_so_is_one_that_ends_when_as_many_wait_as_may() -> None:
    async with surroundings(requests=1) as world, world.beginning(head(2)) as (reader, writer):
        world.send()
        await world.waiting(1)
        writer.write(b"{}")
        assert b"429" in await reader.readline()
        await world.bodies(len(json.dumps(BODY)))


@contextlib.asynccontextmanager
async def senders(world: Surroundings, count: int) -> AsyncIterator[list[asyncio.StreamWriter]]:
    """So many clients that are within their bodies."""
    async with contextlib.AsyncExitStack() as stack:
        begun = [
            await stack.enter_async_context(world.beginning(head(2) + "{")) for _ in range(count)
        ]
        await world.bodies(count)
        yield [writer for _, writer in begun]


async def test_no_more_may_be_within_their_bodies_than_may_wait() -> None:
    async with (
        surroundings(requests=3) as world,
        senders(world, 3),
        world.beginning(head(2) + "{") as (reader, _),
    ):
        assert b"429" in await reader.readline()
        await world.bodies(3)
        assert await world.counted("requests_refused_total", reason="Full") == 1


async def test_one_whose_body_is_there_leaves_its_place_to_another() -> None:
    async with (
        surroundings(requests=3) as world,
        senders(world, 3) as writers,
    ):
        writers[0].write(b"}")
        await world.waiting(1)
        async with world.beginning(head(2) + "{"):
            await world.bodies(5)


async def test_so_does_one_that_leaves() -> None:
    async with surroundings(requests=3) as world:
        async with senders(world, 3):
            pass
        await world.bodies(0)
        async with senders(world, 3):
            pass


async def test_so_does_one_that_falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    async with surroundings(requests=1) as world:
        monkeypatch.setattr(body, "SILENCE_SECONDS", 0.1)
        async with world.beginning(head(2) + "{") as (reader, _):
            assert b"408" in await reader.readline()
        monkeypatch.undo()
        async with senders(world, 1):
            pass


async def test_what_came_whole_finds_a_place_beside_as_many_senders_as_may_be() -> None:
    async with (
        surroundings(requests=3) as world,
        senders(world, 3),
        world.beginning(head(2) + "{}"),
    ):
        await world.waiting(1)
        world.pack.go_on.set()
        async with world.pack.running():
            await world.route(HOST)
            assert (await world.ask("/health", "GET"))[0] == 200


async def test_senders_are_bounded_over_all_services_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "TOTAL_SENDERS_FACTOR", 2)
    async with surroundings(requests=2) as world, senders(world, 2):
        world.port = free_port()
        await world.route(name="second")
        async with world.beginning(head(2) + "{"), world.beginning(head(2) + "{"):
            world.port = free_port()
            await world.route(name="third")
            async with world.beginning(head(2) + "{") as (reader, _):
                assert b"429" in await reader.readline()


async def test_a_client_that_falls_silent_within_its_body_gets_408(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(body, "SILENCE_SECONDS", 0.1)
    async with surroundings() as world, world.beginning(head(9) + "{") as (reader, _):
        assert b"408" in await reader.readline()
        await world.bodies(0)
        assert await world.counted("requests_refused_total", reason="BodyTimeout") == 1


async def test_so_does_one_that_sends_too_slowly() -> None:
    async with surroundings(seconds=0.3) as world, world.beginning(head(1000)) as (reader, writer):
        first_line = asyncio.create_task(reader.readline())
        while not first_line.done():
            writer.write(b"x")
            await asyncio.sleep(0.02)
        assert b"408" in first_line.result()


async def test_a_body_counts_until_a_slow_pack_has_taken_it() -> None:
    async with surroundings(ROOM_BYTES, bytes=ROOM_BYTES) as world:
        pack = SlowPack(world.pack.port)
        async with pack.running():
            await world.route(HOST)
            first = world.send(json=None, data=LARGE)
            await world.passing(1)
            (door,) = (await world.held()).doors
            assert (door.waiting, door.waiting_bytes) == (0, len(LARGE))
            assert (await world.ask(json=None, data=LARGE))[0] == 429

            pack.takes.set()
            await world.bodies(0)
            assert not first.done(), "it counts no longer than it has to"
            second = world.send(json=None, data=LARGE)
            pack.go_on.set()
            assert [(await one)[0] for one in (first, second)] == [200, 200]
        assert (await world.held()).doors[0].waiting_bytes == 0


async def test_a_body_that_no_longer_counts_is_no_longer_there() -> None:
    async with surroundings(ROOM_BYTES, bytes=ROOM_BYTES) as world:
        pack = SlowPack(world.pack.port)
        async with pack.running():
            await world.route(HOST)
            tracemalloc.start()
            try:
                world.send(json=None, data=LARGE)
                await world.passing(1)
                kept_bytes, _ = tracemalloc.get_traced_memory()
                assert kept_bytes > len(LARGE), "it is looked at the right memory"
                pack.takes.set()
                await world.bodies(0)
                kept_bytes, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert kept_bytes < len(LARGE) / 4


async def test_a_body_whose_client_left_while_a_pack_took_it_counts_no_longer() -> None:
    async with (
        surroundings(ROOM_BYTES, bytes=ROOM_BYTES) as world,
        SlowPack(world.pack.port).running(),
    ):
        await world.route(HOST)
        sent = world.send(json=None, data=LARGE)
        await world.passing(1)
        sent.cancel()
        await world.bodies(0)


async def test_a_body_is_tried_again_whole_where_a_pack_takes_no_connection() -> None:
    async with surroundings(ROOM_BYTES, bytes=ROOM_BYTES) as world:
        await world.route(HOST)
        sent = world.send(json=None, data=MEDIUM)
        await world.bodies(len(MEDIUM))
        world.pack.go_on.set()
        async with world.pack.running():
            assert (await sent)[0] == 200
        assert [received for _, received in world.pack.seen] == [MEDIUM]
        await world.bodies(0)


async def test_a_compressed_body_stays_as_small_as_it_counts() -> None:
    async with surroundings() as world:
        compressed = gzip.compress(json.dumps(BODY).encode())
        sent = world.send(json=None, data=compressed, headers={"Content-Encoding": "gzip"})
        await world.waiting(1)
        world.pack.go_on.set()
        async with world.pack.running():
            await world.route(HOST)
            assert (await sent)[0] == 200
        ((headers, received),) = world.pack.seen
        assert headers["Content-Encoding"] == "gzip"
        assert (int(headers["Content-Length"]), json.loads(received)) == (len(compressed), BODY)
