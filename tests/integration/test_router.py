"""The router against real HAProxy: rotation, hold, dead replicas and requests."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from fake_engine import CHUNKS
from ports import free_port
from router_rig import Client, Rig, four_engines, new_router, queued, serves_more, works_on
from slm_worker.routing.config import MAX_REQUEST_BYTES
from slm_worker.routing.limits import max_in_flight
from slm_worker.wire import Routing


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with four_engines(tmp_path / "router") as rig:
        yield rig


class TestRotation:
    async def test_light_load_stays_on_the_first_replica(self, rig: Rig) -> None:
        router, engines, client = rig
        for index in range(4):
            await router.admit(index)
        answers = [await client.complete() for _ in range(10)]
        assert answers == [(200, "r0")] * 10
        assert [engine.served for engine in engines] == [10, 0, 0, 0]

    async def test_more_load_spills_over_and_then_queues_at_the_router(self, rig: Rig) -> None:
        router, engines, client = rig
        for engine in engines:
            engine.gate.clear()
        await router.admit(0)
        await router.admit(1)
        tasks = [asyncio.create_task(client.complete()) for _ in range(11)]
        await queued(router, 3)
        stats = await router.stats()
        assert stats.in_flight == {0: 4, 1: 4, 2: 0, 3: 0}
        await router.admit(2)
        await queued(router, 0)
        assert (await router.stats()).in_flight[2] == 3
        for engine in engines:
            engine.gate.set()
        assert [status for status, _ in await asyncio.gather(*tasks)] == [200] * 11
        assert max(engine.most_in_flight for engine in engines) == 4

    async def test_a_slot_without_an_endpoint_has_nothing_to_lose(self, rig: Rig) -> None:
        router, _, client = rig
        await router.admit(0)
        await router.drain(4)
        await router.eject(4)
        assert await client.complete() == (200, "r0")
        assert set((await router.stats()).in_flight) == {0, 1, 2, 3}

    async def test_a_raised_limit_takes_effect_without_new_requests(self, rig: Rig) -> None:
        router, engines, client = rig
        engines[0].gate.clear()
        await router.admit(0)
        tasks = [asyncio.create_task(client.complete()) for _ in range(6)]
        await queued(router, 2)
        await router.set_endpoint(0, engines[0].port, max_num_seqs=8)
        await queued(router, 0)
        engines[0].gate.set()
        await asyncio.gather(*tasks)

    async def test_a_drained_replica_finishes_its_streams_and_gets_no_more(self, rig: Rig) -> None:
        router, engines, client = rig
        engines[0].gate.clear()
        await router.admit(0)
        stream = asyncio.create_task(client.stream())
        await works_on(engines[0], 1)
        await router.admit(1)
        await router.drain(0)
        assert await client.complete() == (200, "r1")
        assert (await router.stats()).in_flight[0] == 1
        engines[0].gate.set()
        assert await stream == (200, CHUNKS, True)

    async def test_an_ejected_replica_cuts_its_clients_at_once(self, rig: Rig) -> None:
        router, engines, client = rig
        engines[0].gate.clear()
        await router.admit(0)
        stream = asyncio.create_task(client.stream())
        await works_on(engines[0], 1)
        await router.eject(0)
        with pytest.raises(aiohttp.ClientPayloadError):
            await stream

    async def test_random_rotations_drop_no_request_and_cut_no_stream(self, rig: Rig) -> None:
        router, _, client = rig
        flips = 30
        rng = random.Random(7)
        ended = asyncio.Event()
        outcomes: list[bool] = []

        async def user(streams: bool) -> None:
            while not ended.is_set():
                if streams:
                    outcomes.append(await client.stream() == (200, CHUNKS, True))
                else:
                    outcomes.append((await client.complete())[0] == 200)

        users = [asyncio.create_task(user(streams=number % 8 == 0)) for number in range(32)]
        for _ in range(flips):
            wanted = set(rng.sample(range(4), rng.randint(0, 4)))
            for index in rng.sample(range(4), 4):
                await (router.admit(index) if index in wanted else router.drain(index))
            await asyncio.sleep(rng.uniform(0.1, 0.3))
        await router.admit(0)
        ended.set()
        await asyncio.gather(*users)
        assert outcomes.count(False) == 0
        assert len(outcomes) > 5 * flips


class TestHold:
    async def test_requests_wait_until_a_replica_is_admitted(self, rig: Rig) -> None:
        router, engines, client = rig
        tasks = [asyncio.create_task(client.complete()) for _ in range(20)]
        await queued(router, 20)
        await router.admit(2)
        assert await asyncio.gather(*tasks) == [(200, "r2")] * 20
        assert engines[2].most_in_flight == 4

    async def test_what_was_held_takes_its_places_in_the_batch(self, rig: Rig) -> None:
        router, engines, client = rig
        engines[0].gate.clear()
        tasks = [asyncio.create_task(client.complete()) for _ in range(20)]
        await queued(router, 20)
        await router.admit(0)
        await works_on(engines[0], 4)
        for _ in range(5):
            stats = await router.tend(Routing())
            await asyncio.sleep(0.05)
        most = max_in_flight(4)
        assert (stats.in_flight[0], stats.queued) == (most, 20 - most)
        engines[0].gate.set()
        assert await asyncio.gather(*tasks) == [(200, "r0")] * 20
        assert engines[0].most_in_flight == most

    async def test_what_was_held_is_cut_with_its_replica(self, rig: Rig) -> None:
        router, engines, client = rig
        engines[0].gate.clear()
        tasks = [asyncio.create_task(client.stream()) for _ in range(3)]
        await queued(router, 3)
        await router.admit(0)
        await works_on(engines[0], 3)
        await router.eject(0)
        for task in tasks:
            with pytest.raises(aiohttp.ClientPayloadError):
                await task

    async def test_a_held_stream_comes_through_whole(self, rig: Rig) -> None:
        router, _, client = rig
        task = asyncio.create_task(client.stream())
        await queued(router, 1)
        await router.admit(0)
        assert await task == (200, CHUNKS, True)

    async def test_requests_queued_behind_the_last_replica_wait_for_the_next(
        self, rig: Rig
    ) -> None:
        router, engines, client = rig
        engines[0].gate.clear()
        await router.admit(0)
        tasks = [asyncio.create_task(client.complete()) for _ in range(10)]
        await queued(router, 6)
        await router.drain(0)
        engines[0].gate.set()
        late = asyncio.create_task(client.complete())
        await queued(router, 7)
        await router.admit(1)
        assert sorted(await asyncio.gather(*tasks)) == [(200, "r0")] * 4 + [(200, "r1")] * 6
        assert await late == (200, "r1")

    async def test_after_the_hold_timeout_clients_get_503_and_when_to_retry(
        self, tmp_path: Path
    ) -> None:
        port = free_port()
        router = new_router(tmp_path / "router", port, hold_timeout_seconds=0.2)
        await router.start()
        try:
            async with aiohttp.ClientSession() as session:
                url = f"http://127.0.0.1:{port}/v1/completions"
                tasks = [session.post(url, json={"prompt": "x"}) for _ in range(5)]
                for response in await asyncio.gather(*tasks):
                    assert response.status == 503
                    assert response.headers["Retry-After"] == "1"
                    assert "No replica" in (await response.json())["error"]["message"]
        finally:
            await router.stop()

    async def test_what_is_held_at_the_end_is_refused_and_not_cut(self, rig: Rig) -> None:
        router, engines, client = rig
        engines[0].gate.clear()
        await router.admit(0)
        tasks = [asyncio.create_task(client.complete()) for _ in range(10)]
        await queued(router, 6)
        await router.drain(0)
        await router.refuse_held()
        await queued(router, 0)
        engines[0].gate.set()
        statuses = [status for status, _ in await asyncio.gather(*tasks)]
        assert sorted(statuses) == [200] * 4 + [503] * 6
        assert (await client.complete())[0] == 503

    async def test_a_client_that_leaves_frees_its_place(self, rig: Rig) -> None:
        router, _, client = rig
        tasks = [asyncio.create_task(client.complete()) for _ in range(5)]
        await queued(router, 5)
        for task in tasks:
            task.cancel()
        await queued(router, 0)

    @pytest.mark.parametrize("path", ["/health", "/v1/models"])
    async def test_probes_learn_at_once_that_nothing_is_ready(self, rig: Rig, path: str) -> None:
        router, _, client = rig
        async with client.session.get(client.base + path) as response:
            assert response.status == 503
            assert (await response.json())["error"]["code"] == 503
        await router.admit(3)
        async with client.session.get(client.base + path) as response:
            assert (response.status, await response.json()) == (200, {"engine": "r3"})
        await router.drain(3)
        async with client.session.get(client.base + path) as response:
            assert response.status == 503


class TestDeadReplica:
    async def test_requests_not_yet_sent_go_elsewhere(self, rig: Rig) -> None:
        router, engines, client = rig
        await router.admit(0)
        await router.admit(1)
        await engines[0].kill()
        answers = await asyncio.gather(*(client.complete() for _ in range(20)))
        assert answers == [(200, "r1")] * 20

    async def test_a_death_under_load_fails_only_what_that_replica_worked_on(
        self, rig: Rig
    ) -> None:
        router, engines, client = rig
        await router.admit(0)
        await router.admit(1)
        ended = asyncio.Event()
        failed = 0

        async def user() -> None:
            nonlocal failed
            while not ended.is_set():
                try:
                    failed += (await client.complete(seconds=0.02))[0] != 200
                except aiohttp.ClientError:
                    failed += 1

        users = [asyncio.create_task(user()) for _ in range(12)]
        for _ in range(5):
            await works_on(engines[0], 4)
            before = failed
            await engines[0].kill()
            assert engines[0].in_flight == 0
            await serves_more(engines[1], 20)
            assert failed - before <= 4
            await router.eject(0)
            await engines[0].start()
            await router.admit(0)
        ended.set()
        await asyncio.gather(*users)

    async def test_a_lone_dead_replica_fails_no_request_that_was_not_sent(self, rig: Rig) -> None:
        router, engines, client = rig
        await router.admit(0)
        await engines[0].kill()
        tasks = [asyncio.create_task(client.complete()) for _ in range(20)]
        await queued(router, 20)
        await router.eject(0)
        await router.admit(1)
        assert await asyncio.gather(*tasks) == [(200, "r1")] * 20

    async def test_a_replica_that_listens_again_takes_requests_again(self, rig: Rig) -> None:
        router, engines, client = rig
        await router.admit(0)
        await engines[0].kill()
        task = asyncio.create_task(client.complete())
        await queued(router, 1)
        await engines[0].start()
        assert await task == (200, "r0")

    async def test_an_ejected_replica_is_admitted_again_on_another_port(self, rig: Rig) -> None:
        router, engines, client = rig
        await router.admit(0)
        await engines[0].kill()
        await router.eject(0)
        await router.set_endpoint(0, engines[1].port, max_num_seqs=4)
        await router.admit(0)
        assert await client.complete() == (200, "r1")


class TestRequests:
    async def test_request_ids_are_made_or_passed_on_and_returned(self, rig: Rig) -> None:
        router, engines, client = rig
        await router.admit(0)
        url = f"{client.base}/v1/completions"
        async with client.session.post(url, headers={"X-Request-Id": "mine"}) as response:
            assert response.headers["X-Request-Id"] == "mine"
        async with client.session.post(url) as response:
            made = response.headers["X-Request-Id"]
        assert engines[0].request_ids == ["mine", made]
        assert len(made) == 36

    async def test_a_too_large_body_is_refused(self, rig: Rig) -> None:
        router, engines, client = rig
        await router.admit(0)
        headers = {"Content-Length": str(MAX_REQUEST_BYTES + 1)}
        reader, writer = await asyncio.open_connection("127.0.0.1", int(client.base[-5:]))
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\n{head}\r\nabc".encode())
        assert b" 413 " in await reader.readline()
        writer.close()
        assert engines[0].request_ids == []
        assert await client.complete(body=b"x" * (MAX_REQUEST_BYTES // 2)) == (200, "r0")

    @pytest.mark.parametrize(
        "path",
        [
            *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"),
            *("/v1/models", "/v1/models/opt", "/v1/models/org/opt-1.3b", "/v1/models/a%2Fb"),
            *("/tokenize", "/detokenize", "/health", "/ping", "/version", "/ping?x=../metrics"),
        ],
    )
    async def test_the_api_is_served(self, rig: Rig, path: str) -> None:
        router, _, client = rig
        await router.admit(0)
        assert (await _raw(client, f"GET {path} HTTP/1.1"))[0] == 200

    @pytest.mark.parametrize(
        "path",
        [
            *("/", "/metrics", "/sleep", "/collective_rpc", "/v1/load_lora_adapter", "/v1/x"),
            *("/x/../metrics", "//metrics", "/v1/models/../../metrics", "/v1/models/./x"),
            *("/v1/models/%2e%2e/x", "/v1/models/a%2F..%2F..%2Fmetrics", "/v1/models//metrics"),
            *("/v1/completions/", "/v1/completions/../../metrics", "/%6Detrics", "/health/x"),
            *("http://x/metrics", "/v1/models/a\\..\\metrics", "*"),
        ],
    )
    async def test_nothing_else_of_the_engines_is_reached(self, rig: Rig, path: str) -> None:
        router, engines, client = rig
        await router.admit(0)
        for method in ("GET", "POST"):
            status, body = await _raw(client, f"{method} {path} HTTP/1.1")
            assert status == 404
            assert json.loads(body)["error"]["type"] == "not_found"
        assert [engine.asked for engine in engines] == [0] * 4

    async def test_a_body_of_unknown_length_is_refused(self, rig: Rig) -> None:
        router, engines, client = rig
        await router.admit(0)
        first = "POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked"
        for head in (first, f"{first}\r\nContent-Length: 2"):
            status, body = await _raw(client, head, b"2\r\n{}\r\n0\r\n\r\n")
            assert status == 411
            assert json.loads(body)["error"]["type"] == "length_required"
        assert [engine.asked for engine in engines] == [0] * 4
        assert (await _raw(client, "POST /v1/completions HTTP/1.1"))[0] == 200

    async def test_a_client_that_leaves_ends_its_request_at_the_engine(self, rig: Rig) -> None:
        router, engines, client = rig
        engines[0].gate.clear()
        await router.admit(0)
        task = asyncio.create_task(client.complete())
        await works_on(engines[0], 1)
        task.cancel()
        await works_on(engines[0], 0)
        assert engines[0].abandoned == 1


async def _raw(client: Client, head: str, body: bytes = b"") -> tuple[int, bytes]:
    """Status and body of what is sent as it stands: a client would tidy the path."""
    reader, writer = await asyncio.open_connection("127.0.0.1", URL(client.base).port)
    writer.write(f"{head}\r\nHost: x\r\nConnection: close\r\n\r\n".encode() + body)
    answer = await reader.read()
    writer.close()
    headers, _, content = answer.partition(b"\r\n\r\n")
    return int(headers.split()[1]), content
