"""What the router costs: the same requests through HAProxy and directly, in turns.

The engine is a process that answers after 100 ms, so that it is the bottleneck as in reality (640
requests/s, some ten times what one GPU serves); after 20 ms, where on two cores client, router and
engine already compete for the processor; or at once, which shows the router's own limit. Run with
``python -m benchmarks.router_overhead``.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

from benchmarks.report import write
from benchmarks.tiny_http import Burst, burst, serve
from slm_worker.routing.router import Router

ROUNDS = 8
LATENCY_GOAL_MILLISECONDS = 0.3
THROUGHPUT_GOAL = 0.97
ENGINE_SECONDS = 0.100
FAST_ENGINE_SECONDS = 0.020
CONNECTIONS = 64


@asynccontextmanager
async def engine_and_router(service_seconds: float) -> AsyncIterator[tuple[int, int]]:
    """(port of the engine, port of the router before it)."""
    engine_port, router_port = free_port(), free_port()
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=run_engine, args=(engine_port, service_seconds), daemon=True)
    process.start()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        router = Router(
            address="127.0.0.1",
            port=router_port,
            replica_host="127.0.0.1",
            run_dir=Path(folder) / "router",
        )
        try:
            await until_listening(engine_port)
            await router.start()
            await router.set_endpoint(0, engine_port, max_num_seqs=2 * CONNECTIONS)
            await router.admit(0)
            yield engine_port, router_port
        finally:
            await router.stop()
            process.terminate()
            process.join()


async def in_turns(
    service_seconds: float, connections: int, requests: int
) -> tuple[list[Burst], list[Burst]]:
    """``ROUNDS`` bursts directly and through the router, alternating after one of each to warm."""
    direct: list[Burst] = []
    routed: list[Burst] = []
    async with engine_and_router(service_seconds) as (engine_port, router_port):
        for _ in range(ROUNDS + 1):
            direct.append(await burst(engine_port, connections, requests))
            routed.append(await burst(router_port, connections, requests))
    return direct[1:], routed[1:]


def p50_milliseconds(bursts: list[Burst]) -> float:
    return median(median(one.latencies_seconds) for one in bursts) * 1000


def per_second(bursts: list[Burst]) -> float:
    return median(one.per_second for one in bursts)


def throughput_ratio(direct: list[Burst], routed: list[Burst]) -> float:
    """Median over rounds of routed to direct, each pair taken one after the other."""
    pairs = zip(direct, routed, strict=True)
    return median(through.per_second / alone.per_second for alone, through in pairs)


async def measure() -> dict[str, float | int | bool]:
    alone, through = await in_turns(0, connections=1, requests=1000)
    slow, slow_through = await in_turns(ENGINE_SECONDS, CONNECTIONS, requests=1280)
    fast, fast_through = await in_turns(FAST_ENGINE_SECONDS, CONNECTIONS, requests=3200)
    free, free_through = await in_turns(0, CONNECTIONS, requests=3200)
    added = p50_milliseconds(through) - p50_milliseconds(alone)
    ratio = throughput_ratio(slow, slow_through)
    return {
        "connections": CONNECTIONS,
        "rounds": ROUNDS,
        "direct_p50_milliseconds": p50_milliseconds(alone),
        "router_p50_milliseconds": p50_milliseconds(through),
        "added_p50_milliseconds": added,
        "added_p50_goal_met": added <= LATENCY_GOAL_MILLISECONDS,
        "engine_100ms_direct_requests_per_second": per_second(slow),
        "engine_100ms_router_requests_per_second": per_second(slow_through),
        "engine_100ms_throughput_ratio": ratio,
        "engine_100ms_throughput_goal_met": ratio >= THROUGHPUT_GOAL,
        "engine_20ms_direct_requests_per_second": per_second(fast),
        "engine_20ms_router_requests_per_second": per_second(fast_through),
        "engine_20ms_throughput_ratio": throughput_ratio(fast, fast_through),
        "unbounded_direct_requests_per_second": per_second(free),
        "unbounded_router_requests_per_second": per_second(free_through),
    }


def run_engine(port: int, service_seconds: float) -> None:
    asyncio.run(serve(port, service_seconds))


async def until_listening(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> None:
    write("router_overhead", asyncio.run(measure()), command="python -m benchmarks.router_overhead")


if __name__ == "__main__":
    main()
