"""Output tokens/s of 1, 2 and 3 real vLLM replicas on the CPU under the same load, in one run.

SmolLM2-135M in float32, 8 sequences and one thread a replica, behind the real agent and router;
tokens are the agent's own count. Three replicas are started and the rotation goes 1, 2, 3 and, with
the clients that fill all three, back again, which tells a drift of the machine from a gain. (On the
CPU a replica has the same settings in every layout.) 16 clients fill two replicas, and the router
spills over only when a replica is full, so the third gets nothing of them; 40 clients fill all.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import fmean

from benchmarks import report
from benchmarks.pack import MODEL_NAME, Pack, running, vllm_on_cpu
from slm_worker.load import SaturatingLoad
from slm_worker.wire import Counters

NAME = "vllm_replicas"
MOST_REPLICAS = 3
ROTATIONS = {16: (1, 2, 3), 40: (1, 2, 3, 3, 2, 1)}
"""Replicas in rotation, by clients."""
PROMPT_TOKENS = 16
OUTPUT_TOKENS = 64
WARMUP_SECONDS = 8.0
"""About twice as long as a request: by then the sequences of the batch no longer start in step."""
WINDOW_SECONDS = 30.0
TRIES = 3


class SpoiltWindowError(RuntimeError):
    """A replica was restarted or missed a sample inside the window."""


@dataclass(frozen=True)
class Window:
    tokens_per_second: float
    saturated_fraction: float
    """Share of the window in which every replica in rotation was full with requests waiting."""


def between(before: Counters, after: Counters) -> Window:
    """Raises SpoiltWindowError."""
    seconds = after.sampled_at_seconds - before.sampled_at_seconds
    restarts = after.replica_starts - before.replica_starts
    missed = after.missed_samples - before.missed_samples
    if restarts or missed:
        raise SpoiltWindowError(f"window spoilt: {restarts} restarts, {missed} missed samples")
    return Window(
        tokens_per_second=(after.output_tokens - before.output_tokens) / seconds,
        saturated_fraction=(after.saturated_seconds - before.saturated_seconds) / seconds,
    )


async def window(pack: Pack, replicas: int, rotation: int) -> Window:
    """Settles the pack under the load that runs, and measures; a spoilt window again. Raises
    SpoiltWindowError when all were."""
    for tried in range(1, TRIES + 1):
        await pack.settle(replicas, rotation)
        await asyncio.sleep(WARMUP_SECONDS)
        before = await counters(pack)
        await asyncio.sleep(WINDOW_SECONDS)
        try:
            measured = between(before, await counters(pack))
        except SpoiltWindowError as error:
            print(f"  {rotation} of {replicas} replicas: {error}", flush=True)
            if tried == TRIES:
                raise
        else:
            break
    print(f"  {rotation} of {replicas} replicas: {measured}", flush=True)
    return measured


async def counters(pack: Pack) -> Counters:
    found = (await pack.until(lambda state: state.counters is not None)).counters
    assert found is not None
    return found


@asynccontextmanager
async def load(pack: Pack, clients: int) -> AsyncIterator[None]:
    """So many clients, each with one request after another. Raises RuntimeError if one failed."""
    saturating = SaturatingLoad(
        url=pack.url,
        model_name=MODEL_NAME,
        prompt_tokens=PROMPT_TOKENS,
        output_tokens=OUTPUT_TOKENS,
        rng=random.Random(0),
    )
    await saturating.set_concurrency(clients)
    try:
        yield
    finally:
        await saturating.stop()
    if saturating.state().failed:
        raise RuntimeError(f"requests failed: {saturating.state()}")


async def measure() -> dict[str, report.Figure]:
    figures: dict[str, report.Figure] = {"window_seconds": WINDOW_SECONDS}
    async with running(vllm_on_cpu()) as pack:
        await pack.settle(MOST_REPLICAS, MOST_REPLICAS)
        for clients, rotations in ROTATIONS.items():
            windows = defaultdict(list)
            async with load(pack, clients):
                for rotation in rotations:
                    windows[rotation].append(await window(pack, MOST_REPLICAS, rotation))
            figures |= summary(f"{clients}_clients_rotation_of", windows)
    return figures


def summary(name: str, windows: dict[int, list[Window]]) -> dict[str, report.Figure]:
    """Means over the windows of each replica count, and their ratios to one replica."""
    means = {n: fmean(w.tokens_per_second for w in found) for n, found in windows.items()}
    figures: dict[str, report.Figure] = {}
    for replicas, found in windows.items():
        each = [w.tokens_per_second for w in found]
        figures |= {
            f"{name}_{replicas}_tokens_per_second": means[replicas],
            f"{name}_{replicas}_tokens_per_second_each": ", ".join(f"{x:.0f}" for x in each),
            f"{name}_{replicas}_ratio_to_1": means[replicas] / means[1],
            f"{name}_{replicas}_saturated_fraction": fmean(w.saturated_fraction for w in found),
        }
    return figures


def main() -> None:
    report.write(NAME, asyncio.run(measure()), f"python -m benchmarks.{NAME}")


if __name__ == "__main__":
    main()
