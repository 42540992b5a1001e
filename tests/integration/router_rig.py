"""HAProxy before four small engines, and a client of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from fake_engine import FakeEngine
from ports import free_port
from slm_worker.routing.config import DEFAULT_TIMEOUTS, ClientTimeouts
from slm_worker.routing.router import Router


class Client:
    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self.session = session
        self.base = f"http://127.0.0.1:{port}"

    async def complete(self, seconds: float = 0.005, body: bytes = b"{}") -> tuple[int, str]:
        url = f"{self.base}/v1/completions?seconds={seconds}"
        async with self.session.post(url, data=body) as response:
            return response.status, await response.text()

    async def stream(self) -> tuple[int, int, bool]:
        """Status, number of chunks, and whether the end marker came."""
        url = f"{self.base}/v1/completions?stream=1"
        async with self.session.post(url, data=b"{}") as response:
            text = await response.text()
            return response.status, text.count("data: r"), text.endswith("[DONE]\n\n")


Rig = tuple[Router, list[FakeEngine], Client]


def new_router(
    run_dir: Path,
    port: int = 0,
    hold_timeout_seconds: float = 300.0,
    timeouts: ClientTimeouts = DEFAULT_TIMEOUTS,
) -> Router:
    return Router(
        address="127.0.0.1",
        port=port or free_port(),
        replica_host="127.0.0.1",
        run_dir=run_dir,
        hold_timeout_seconds=hold_timeout_seconds,
        timeouts=timeouts,
    )


@asynccontextmanager
async def four_engines(
    run_dir: Path, timeouts: ClientTimeouts = DEFAULT_TIMEOUTS, *, keep_connections: bool = True
) -> AsyncIterator[Rig]:
    """The router knows every engine, each with a batch of four; none is admitted.
    ``keep_connections``: whether the client does, which may send on one that is just closed."""
    port = free_port()
    router = new_router(run_dir, port, timeouts=timeouts)
    engines = [FakeEngine(f"r{index}") for index in range(4)]
    for engine in engines:
        await engine.start()
    connector = aiohttp.TCPConnector(limit=0, force_close=not keep_connections)
    async with aiohttp.ClientSession(connector=connector) as session:
        await router.start()
        for index, engine in enumerate(engines):
            await router.set_endpoint(index, engine.port, max_num_seqs=4)
        try:
            yield router, engines, Client(session, port)
        finally:
            await router.stop()
            for engine in engines:
                await engine.kill()


async def until(holds: Callable[[], Awaitable[bool]], seconds: float = 90.0) -> None:
    async with asyncio.timeout(seconds):
        while not await holds():
            await asyncio.sleep(0.01)


async def queued(router: Router, count: int) -> None:
    async def holds() -> bool:
        return (await router.stats()).queued == count

    await until(holds)


async def works_on(engine: FakeEngine, count: int) -> None:
    async def holds() -> bool:
        return engine.in_flight == count

    await until(holds)


async def serves_more(engine: FakeEngine, count: int) -> None:
    target = engine.served + count

    async def holds() -> bool:
        return engine.served >= target

    await until(holds)
