"""A body is in the activator's memory, and counts there, until a pack has taken it."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc

from activator_world import BODY, HOST, SOON, SlowPack, Surroundings, surroundings

LARGE = b"x" * (12 << 20)
"""More than the sockets between two processes of a host keep."""
MEDIUM = bytes(range(256)) * 2500
"""Of several pieces; no larger than a stand-in for a pack takes."""
ROOM_BYTES = 16 << 20


async def passing(world: Surroundings, count: int) -> None:
    async with asyncio.timeout(SOON):
        while (await world.held()).doors[0].passing != count:
            await asyncio.sleep(0.01)


async def test_a_body_counts_until_a_slow_pack_has_taken_it() -> None:
    async with surroundings(ROOM_BYTES, bytes=ROOM_BYTES) as world:
        pack = SlowPack(world.pack.port)
        async with pack.running():
            await world.route(HOST)
            first = world.send(json=None, data=LARGE)
            await passing(world, 1)
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
                await passing(world, 1)
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
        await passing(world, 1)
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
        assert [body for _, body in world.pack.seen] == [MEDIUM]
        await world.bodies(0)


async def test_a_compressed_body_stays_as_small_as_it_counts() -> None:
    async with surroundings() as world:
        compressed = gzip.compress(json.dumps(BODY).encode())
        headers = {"Content-Encoding": "gzip"}
        sent = world.send(json=None, data=compressed, headers=headers)
        await world.waiting(1)
        world.pack.go_on.set()
        async with world.pack.running():
            await world.route(HOST)
            assert (await sent)[0] == 200
        ((received, body),) = world.pack.seen
        assert received["Content-Encoding"] == "gzip"
        assert (int(received["Content-Length"]), json.loads(body)) == (len(compressed), BODY)
