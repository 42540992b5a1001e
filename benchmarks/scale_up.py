"""Seconds from a plan that the agent accepted to one more serving replica, by both knobs.

Rotation: a second replica is started already and the router begins to use it. The first replica is
full of long requests, so that a one-token request that waits at the router can be answered by the
second alone: its answer is the moment. Layout: the second replica has to be started, and where it
needs memory that the first one holds, so has the first; a client that asks for one token after
another shows how long requests wait meanwhile. Engines: the simulated one, whose weights load in
one second, and real vLLM on the CPU.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median

import aiohttp

from benchmarks import report
from benchmarks.pack import MODEL_NAME, Kind, Pack, in_rotation, running, simulated, vllm_on_cpu
from slm_worker.routing.limits import max_in_flight
from slm_worker.wire import PackState

NAME = "scale_up"
FAST_POLL_SECONDS = 0.002
ENGINES: tuple[tuple[str, Callable[[], Kind], int, int], ...] = (
    # name, pack, repetitions, longest completion in tokens
    ("simulated", simulated, 3, 1500),
    ("vllm", vllm_on_cpu, 2, 480),
)


@dataclass(frozen=True)
class Rotation:
    admitted_seconds: float
    """Until the agent says that the router uses the second replica."""
    answered_seconds: float
    """Until the second replica's first completion."""


@dataclass(frozen=True)
class Growth:
    serving_seconds: float
    """Until both replicas of the new layout are in rotation."""
    starts: int
    """Engines that were started for it."""
    longest_wait_seconds: float
    """Longest time that the client waited for one token."""
    median_wait_seconds: float


class Client:
    """Completions through a pack's router. Each raises aiohttp.ClientError when it fails."""

    def __init__(self, session: aiohttp.ClientSession, pack: Pack) -> None:
        self._session = session
        self._url = f"{pack.url}/v1/completions"

    async def complete(self, tokens: int) -> None:
        body = {
            "model": MODEL_NAME,
            "prompt": [1000],
            "max_tokens": tokens,
            "min_tokens": tokens,
            "ignore_eos": True,
        }
        async with self._session.post(self._url, json=body) as answer:
            await answer.read()
            answer.raise_for_status()

    @asynccontextmanager
    async def filling(self, requests: int, tokens: int) -> AsyncIterator[None]:
        """With so many long completions in flight. Raises RuntimeError if one ended meanwhile."""
        tasks = [asyncio.create_task(self.complete(tokens)) for _ in range(requests)]
        try:
            yield
            if any(task.done() for task in tasks):
                raise RuntimeError(f"completions of {tokens} tokens ended too soon: use longer")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def complete_until(self, end: asyncio.Event) -> list[float]:
        """One-token completions one after another; answers how many seconds each took."""
        waits = []
        while not end.is_set():
            began = time.perf_counter()
            await self.complete(1)
            waits.append(time.perf_counter() - began)
        return waits


async def measure_rotation(pack: Pack, client: Client, seqs: int, tokens: int) -> Rotation:
    await pack.settle(replicas=2, rotation=1)
    async with client.filling(max_in_flight(seqs), tokens):
        await pack.until(lambda state: (state.replicas[0].running or 0) >= seqs)
        waiting = asyncio.create_task(client.complete(1))
        await pack.until(lambda state: state.router_queue == 1)
        await pack.plan(replicas=2, rotation=2)
        began = time.perf_counter()
        admitted = asyncio.create_task(
            pack.until(lambda state: in_rotation(state) == 2, FAST_POLL_SECONDS)
        )
        admitted_at, answered_at = await asyncio.gather(_end_of(admitted), _end_of(waiting))
    return Rotation(admitted_at - began, answered_at - began)


async def measure_growth(pack: Pack, client: Client) -> Growth:
    before = await pack.settle(replicas=1, rotation=1)
    end = asyncio.Event()
    asking = asyncio.create_task(client.complete_until(end))
    try:
        await pack.plan(replicas=2, rotation=2)
        began = time.perf_counter()
        after = await pack.until(lambda state: state.settled and in_rotation(state) == 2)
        serving_seconds = time.perf_counter() - began
    finally:
        end.set()
        waits = await asking
    starts = len(_processes(after) - _processes(before))
    return Growth(serving_seconds, starts, max(waits), median(waits))


def _processes(state: PackState) -> set[int | None]:
    return {replica.pid for replica in state.replicas}


async def _end_of(task: asyncio.Task[object]) -> float:
    await task
    return time.perf_counter()


async def measure(
    name: str, kind: Kind, repetitions: int, longest_tokens: int
) -> dict[str, report.Figure]:
    growths, rotations = [], []
    timeout = aiohttp.ClientTimeout(total=600)
    async with running(kind) as pack, aiohttp.ClientSession(timeout=timeout) as session:
        client = Client(session, pack)
        for _ in range(repetitions):
            growths.append(await measure_growth(pack, client))
            print(f"  {name}: {growths[-1]}")
        for _ in range(repetitions):
            rotations.append(
                await measure_rotation(pack, client, kind.max_num_seqs, longest_tokens)
            )
            print(f"  {name}: {rotations[-1]}")
        start_seconds = [r.start_seconds for r in (await pack.state()).replicas if r.start_seconds]
    return {
        f"{name}_repetitions": repetitions,
        f"{name}_rotation_admitted_ms": 1000 * median(r.admitted_seconds for r in rotations),
        f"{name}_rotation_answered_ms": 1000 * median(r.answered_seconds for r in rotations),
        f"{name}_rotation_answered_longest_ms": 1000 * max(r.answered_seconds for r in rotations),
        f"{name}_layout_serving_seconds": median(g.serving_seconds for g in growths),
        f"{name}_layout_serving_longest_seconds": max(g.serving_seconds for g in growths),
        f"{name}_layout_engine_starts": max(g.starts for g in growths),
        f"{name}_layout_longest_wait_seconds": max(g.longest_wait_seconds for g in growths),
        f"{name}_layout_median_wait_seconds": median(g.median_wait_seconds for g in growths),
        f"{name}_one_start_seconds": median(start_seconds),
    }


def main() -> None:
    figures: dict[str, report.Figure] = {}
    for name, kind, repetitions, longest_tokens in ENGINES:
        figures |= asyncio.run(measure(name, kind(), repetitions, longest_tokens))
    report.write(NAME, figures, f"python -m benchmarks.{NAME}")


if __name__ == "__main__":
    main()
