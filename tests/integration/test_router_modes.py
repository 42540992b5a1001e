"""The router's two modes and its bounded queue, changed while requests run."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fake_engine import CHUNKS, FakeEngine
from router_rig import Client, Rig, four_engines, queued, until, works_on
from slm_worker.routing.router import Router
from slm_worker.wire import RouterState, Routing

CONCENTRATE = Routing()
SPREAD = Routing(mode="Spread")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """Two of the engines are admitted, and answer nothing before their gates are opened."""
    async with four_engines(tmp_path / "router") as rig:
        router, engines, _ = rig
        for engine in engines:
            engine.gate.clear()
        await router.admit(0)
        await router.admit(1)
        yield rig


def ask(client: Client, count: int) -> list[asyncio.Task[tuple[int, str]]]:
    return [asyncio.create_task(client.complete()) for _ in range(count)]


async def work(engines: list[FakeEngine], *counts: int) -> None:
    for engine, count in zip(engines, counts, strict=False):
        await works_on(engine, count)


async def answered(engines: list[FakeEngine], tasks: list[asyncio.Task[tuple[int, str]]]) -> None:
    """Everything goes on and is answered with 200."""
    for engine in engines:
        engine.gate.set()
    assert {status for status, _ in await asyncio.gather(*tasks)} == {200}


class TestMode:
    async def test_spread_gives_to_the_least_busy(self, rig: Rig) -> None:
        router, engines, client = rig
        await router.tend(SPREAD)
        tasks = ask(client, 4)
        await work(engines, 2, 2)
        await answered(engines, tasks)

    async def test_concentrate_fills_one_batch_before_the_next(self, rig: Rig) -> None:
        router, engines, client = rig
        await router.tend(CONCENTRATE)
        tasks = ask(client, 6)
        await work(engines, 4, 2)
        await answered(engines, tasks)

    async def test_a_change_leaves_each_replica_its_limit(self, rig: Rig) -> None:
        router, engines, client = rig
        tasks = ask(client, 3)
        await work(engines, 3, 0)
        await router.tend(SPREAD)
        tasks += ask(client, 8)
        await queued(router, 3)
        await work(engines, 4, 4)
        await answered(engines, tasks)

    async def test_what_waits_for_the_old_mode_is_served_too(self, rig: Rig) -> None:
        router, engines, client = rig
        tasks = ask(client, 10)
        await queued(router, 2)
        await router.tend(SPREAD)
        tasks += ask(client, 4)
        await queued(router, 4)  # each replica takes one more, so that the new queue moves
        await answered(engines, tasks)

    async def test_a_replica_that_leaves_and_comes_back_does_so_in_both_modes(
        self, rig: Rig
    ) -> None:
        router, engines, client = rig
        await router.tend(SPREAD)
        await router.drain(0)
        tasks = ask(client, 2)
        await work(engines, 0, 2)
        await router.drain(1)
        tasks += ask(client, 3)
        await queued(router, 3)
        await router.admit(2)
        await queued(router, 0)
        await works_on(engines[2], 3)
        await answered(engines, tasks)

    async def test_changes_cut_no_stream_and_drop_no_request(self, rig: Rig) -> None:
        router, engines, client = rig
        streams = [asyncio.create_task(client.stream()) for _ in range(4)]
        await work(engines, 4)
        engines[1].gate.set()
        engines[2].gate.set()
        await router.admit(2)
        ended = asyncio.Event()
        statuses: list[int] = []

        async def user() -> None:
            while not ended.is_set():
                statuses.append((await client.complete())[0])

        users = [asyncio.create_task(user()) for _ in range(12)]
        for routing in itertools.islice(itertools.cycle((SPREAD, CONCENTRATE)), 30):
            await router.tend(routing)
            await grown(statuses, by=10)
        ended.set()
        engines[0].gate.set()
        await asyncio.gather(*users)
        assert set(statuses) == {200}
        assert await asyncio.gather(*streams) == [(200, CHUNKS, True)] * 4


async def grown(answers: list[int], by: int) -> None:
    enough = len(answers) + by

    async def holds() -> bool:
        return len(answers) >= enough

    await until(holds)


class TestMargin:
    async def test_two_full_batches_are_not_unbalanced(self, rig: Rig) -> None:
        router, engines, client = rig
        tasks = ask(client, 8)
        await work(engines, 4, 4)
        await router.tend(CONCENTRATE)
        tasks += ask(client, 2)
        await queued(router, 2)
        await router.tend(CONCENTRATE)
        assert [engine.in_flight for engine in engines[:2]] == [4, 4]
        await answered(engines, tasks)

    async def test_engines_get_a_margin_when_enough_waits_for_all(self, rig: Rig) -> None:
        router, engines, client = rig
        tasks = ask(client, 13)
        await queued(router, 5)
        await router.tend(CONCENTRATE)
        await queued(router, 1)
        await work(engines, 6, 6)
        await answered(engines, tasks)
        await router.tend(CONCENTRATE)
        for engine in engines:
            engine.gate.clear()
        tasks = ask(client, 9)
        await queued(router, 1)
        await work(engines, 4, 4)
        await answered(engines, tasks)


class TestQueue:
    @pytest.mark.parametrize("mode", ["Concentrate", "Spread"])
    async def test_past_its_bound_requests_are_refused_and_told_when_to_retry(
        self, rig: Rig, mode: str
    ) -> None:
        router, engines, client = rig
        await router.tend(Routing.model_validate({"mode": mode, "max_queued_requests": 2}))
        tasks = ask(client, 10)
        await queued(router, 2)
        async with client.session.post(f"{client.base}/v1/completions", data=b"{}") as response:
            assert response.status == 429
            assert response.headers["Retry-After"] == "5"
            assert "X-Request-Id" in response.headers
            assert (await response.json())["error"]["type"] == "rate_limit_exceeded"
        await router.tend(Routing.model_validate({"mode": mode, "max_queued_requests": 3}))
        tasks += ask(client, 1)
        await queued(router, 3)
        assert (await client.complete())[0] == 429
        assert router.state.rejected == 1  # as the last look saw it
        await answered(engines, tasks)

    async def test_what_no_replica_takes_is_bounded_too(self, rig: Rig) -> None:
        router, engines, client = rig
        await router.drain(0)
        await router.drain(1)
        await router.tend(Routing(max_queued_requests=2))
        tasks = ask(client, 3)  # one is with the holder
        await queued(router, 3)
        assert (await client.complete())[0] == 429
        await router.admit(3)
        await answered(engines, tasks)

    async def test_after_the_queue_timeout_clients_get_503_and_when_to_retry(
        self, rig: Rig
    ) -> None:
        router, engines, client = rig
        await router.tend(Routing(queue_timeout_seconds=1))
        tasks = ask(client, 8)
        await work(engines, 4, 4)
        async with client.session.post(f"{client.base}/v1/completions", data=b"{}") as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "1"
            assert (await response.json())["error"]["type"] == "service_unavailable"
        await answered(engines, tasks)
        await router.tend(Routing(queue_timeout_seconds=1))
        assert router.state.timed_out == 1

    async def test_another_timeout_waits_until_nothing_runs(self, rig: Rig) -> None:
        router, engines, client = rig
        impatient = Routing(queue_timeout_seconds=1)
        stream = asyncio.create_task(client.stream())
        await work(engines, 1)
        for _ in range(3):
            await router.tend(impatient)
        assert (await router.stats()).in_flight[0] == 1
        engines[0].gate.set()
        assert await stream == (200, CHUNKS, True)
        assert await client.complete() == (200, "r0")
        engines[0].gate.clear()
        served = (await _settled(router, impatient)).served
        tasks = ask(client, 9)
        statuses = [await next(asyncio.as_completed(tasks))]
        assert statuses[0][0] == 503
        assert served == 2, "counts go on over the new process"
        await answered(engines, [task for task in tasks if not task.done()])

    async def test_questions_do_not_wait_behind_completions(self, rig: Rig) -> None:
        router, engines, client = rig
        tasks = ask(client, 12)
        await queued(router, 4)
        for path in ("/health", "/v1/models", "/version"):
            async with client.session.get(client.base + path) as response:
                assert response.status == 200
        await answered(engines, tasks)


async def _settled(router: Router, routing: Routing) -> RouterState:
    """Once the router is idle and has been tended."""

    async def idle() -> bool:
        return (await router.tend(routing)).idle

    await until(idle)
    await router.tend(routing)
    return router.state
