"""The sweep on one GPU: 1 to 4 replicas against one replica at its best batch, window by window.

    python -m benchmarks.gpu.sweep --model opt-1.3b --into DIR [--stand-ins]

The real agent with NVML, MPS and vLLM; with ``--stand-ins`` all three are played below it, and
every figure says simulated. Each window is a file of its own in DIR/WORKLOAD when it is over. A
sweep ends before ``--budget-seconds`` are over, with exit code 3 while windows are missing, and
goes on from there when it is called again. ``python -m benchmarks.gpu.summary DIR/WORKLOAD`` makes
table and plot.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import aiohttp

from benchmarks.gpu.lengths import SOURCE, TRACE, TraceLoad, lengths_of
from benchmarks.gpu.models import MAX_MODEL_LEN, MODELS, write_model
from benchmarks.gpu.points import DEFAULT_POINTS, Point, Window, schedule, window
from benchmarks.gpu.stand_ins import stand_ins
from benchmarks.pack import Kind, Pack, running
from benchmarks.report import describe_machine
from slm_worker.load import saturating_concurrency
from slm_worker.routing.limits import max_in_flight
from slm_worker.wire import (
    Counters,
    EngineConfig,
    GpuConfig,
    ModelRef,
    MpsConfig,
    PackConfig,
    PackState,
)

EXIT_INCOMPLETE = 3
ENGINE_ARGUMENTS = ("--load-format=dummy", f"--max-model-len={MAX_MODEL_LEN}")
"""Prefix caching stays on, as vLLM has it: prompts are random words, so nothing is found twice."""
SWITCH_SECONDS = 45.0
"""What one replica's start is taken for, until one was seen: on an H100 the first took 69 s, which
compiled, and the others 33 to 37 s."""


GIVEN_UP_AFTER_STARTS = 2
"""A lent machine's time is worth more than a third try."""


class NotStartingError(Exception):
    """A replica does not start; the text says which, and why."""


@dataclass(frozen=True)
class Settings:
    model: str
    points: tuple[Point, ...]
    rounds: int
    warmup_seconds: float
    window_seconds: float
    budget_seconds: float
    simulated: bool
    workloads: tuple[str, ...] = (TRACE,)
    """Lengths of prompts and answers, as `lengths_of` reads them."""
    seed: int = 0


class Sweep:
    """Goes through the windows that are not in ``into`` yet."""

    def __init__(self, settings: Settings, into: Path, command: str) -> None:
        into.mkdir(parents=True, exist_ok=True)
        self._settings = settings
        self._into = into
        self._command = command
        self._began = time.monotonic()
        self._start_seconds = 0.0 if settings.simulated else SWITCH_SECONDS
        self._layout: tuple[int, int] | None = None

    def missing(self) -> list[tuple[Path, Point, str]]:
        """Windows that are still to be measured: the file, the point and the workload of each."""
        order = schedule(self._settings.points, self._settings.rounds)
        return [
            (file, point, workload)
            for number, point in enumerate(order)
            for workload in self._settings.workloads
            if not (file := self._into / workload / f"{number:02d}-{point}.json").exists()
        ]

    async def run(self, pack: Pack) -> None:
        """Measures until all is done or the budget would be overrun.

        Raises NotStartingError, and what the pack raises.
        """
        for file, point, workload in self.missing():
            needed = self._switch_seconds(point)
            needed += self._settings.warmup_seconds + self._settings.window_seconds
            if time.monotonic() - self._began + needed > self._settings.budget_seconds:
                return
            measured, record = await self._measure(pack, point, workload)
            print(f"  {workload} {file.stem}: {measured}", flush=True)
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(record, indent=2) + "\n")

    def _switch_seconds(self, point: Point) -> float:
        """How long it takes to come to a point from the layout that runs now."""
        if self._layout == (point.layout_replicas, point.max_num_seqs):
            return 0.0
        # The first replica starts alone, and the others together.
        return min(point.layout_replicas, 2) * self._start_seconds

    async def _measure(
        self, pack: Pack, point: Point, workload: str
    ) -> tuple[Window, Mapping[str, object]]:
        settings = self._settings
        began = time.monotonic()
        await pack.plan(point.layout_replicas, point.replicas, max_num_seqs=point.max_num_seqs)
        state = await settled(pack)
        self._layout = (point.layout_replicas, point.max_num_seqs)
        switch_seconds = time.monotonic() - began
        starts = [one.start_seconds for one in state.replicas if one.start_seconds is not None]
        self._start_seconds = max(starts, default=self._start_seconds)
        load = TraceLoad(
            url=pack.url,
            model_name=settings.model,
            lengths=lengths_of(workload, MAX_MODEL_LEN),
            rng=random.Random(settings.seed),
        )
        clients = saturating_concurrency(point.replicas, max_in_flight(point.max_num_seqs))
        async with load.running(clients):
            await asyncio.sleep(settings.warmup_seconds)
            before = await counters(pack)
            await asyncio.sleep(settings.window_seconds)
            state = await pack.until(lambda now: _later(now, before))
            after = await counters(pack)
        measured = window(before, after)
        record: dict[str, object] = {
            "simulated": settings.simulated,
            "model": settings.model,
            "layout_replicas": point.layout_replicas,
            "replicas": point.replicas,
            "max_num_seqs": point.max_num_seqs,
            "sharing": sharing(state),
            "weights": "dummy",
            "lengths": SOURCE if workload == TRACE else workload,
            "clients": clients,
            "window": asdict(measured),
            "requests_failed": len(load.failures),
            "first_failures": load.failures[:5],
            "switch_seconds": switch_seconds,
            "start_seconds": starts,
            "gpu": state.gpu.model_dump(mode="json"),
            "packing": state.packing.model_dump(mode="json") if state.packing else None,
            "replica_states": [one.model_dump(mode="json") for one in state.replicas],
            "counters": [one.model_dump(mode="json") for one in (before, after)],
            "engine_version": await _version(pack),
            "machine": describe_machine(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": self._command,
        }
        return measured, record


async def settled(pack: Pack) -> PackState:
    """Waits until the pack is what its plan wants. Raises NotStartingError."""
    state = await pack.until(lambda state: state.settled or bool(not_starting(state)))
    if not state.settled:
        raise NotStartingError(not_starting(state))
    return state


def not_starting(state: PackState) -> str:
    """Which replica failed to start again and again, and why; empty where none did."""
    for replica in state.replicas:
        if replica.failures >= GIVEN_UP_AFTER_STARTS and replica.problem is not None:
            cause = f"{replica.problem.reason}: {replica.problem.message}"
            return f"replica {replica.index} failed {replica.failures} times in a row, {cause}"
    return ""


def sharing(state: PackState) -> str:
    """How the replicas of a pack were on one GPU."""
    if len(state.replicas) == 1:
        return "alone"
    if state.gpu.mps == "Running":
        return "MPS"
    return f"time-sliced, without MPS: {state.gpu.mps_message}"


async def counters(pack: Pack) -> Counters:
    found = (await pack.until(lambda state: state.counters is not None)).counters
    if found is None:
        raise RuntimeError("a state with counters has none")
    return found


def _later(state: PackState, before: Counters) -> bool:
    now = state.counters
    return now is not None and now.sampled_at_seconds > before.sampled_at_seconds


async def _version(pack: Pack) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"{pack.url}/version") as answer:
        return (await answer.text())[:200]


@asynccontextmanager
async def pack_on_gpu(
    model: str, folder: Path, environment: Mapping[str, str]
) -> AsyncIterator[Pack]:
    """A pack of the machine's GPU, whose replicas take turns where there is no MPS."""
    path = write_model(model, folder)
    config = PackConfig(
        model=ModelRef(uri=f"file://{path}", name=model),
        engine=EngineConfig(kind="vLLM", args=ENGINE_ARGUMENTS),
        gpu=GpuConfig(kind="NVIDIA", mps=MpsConfig(fallback="TimeSlicing")),
    )
    async with running(Kind(config, max_num_seqs=256, environment=environment)) as pack:
        yield pack


async def sweep(settings: Settings, into: Path, command: str) -> bool:
    """Answers whether every window is there now."""
    work = Sweep(settings, into, command)
    if work.missing():
        if settings.simulated:
            async with (
                stand_ins() as played,
                pack_on_gpu(settings.model, into / "model", played.environment) as pack,
            ):
                await work.run(pack)
        else:
            async with pack_on_gpu(settings.model, into / "model", {}) as pack:
                await work.run(pack)
    return not work.missing()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=list(MODELS), default="opt-1.3b")
    parser.add_argument("--into", type=Path, required=True, help="folder of the windows")
    parser.add_argument("--points", nargs="+", type=Point.parse, default=list(DEFAULT_POINTS))
    parser.add_argument("--workloads", nargs="+", default=[TRACE], help="trace, 111+292, ...")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--warmup-seconds", type=float, default=20.0)
    parser.add_argument("--window-seconds", type=float, default=45.0)
    parser.add_argument("--budget-seconds", type=float, default=540.0)
    parser.add_argument("--stand-ins", action="store_true", help="no GPU: every figure simulated")
    arguments = parser.parse_args()
    settings = Settings(
        model=arguments.model,
        points=tuple(arguments.points),
        rounds=arguments.rounds,
        warmup_seconds=arguments.warmup_seconds,
        window_seconds=arguments.window_seconds,
        budget_seconds=arguments.budget_seconds,
        simulated=arguments.stand_ins,
        workloads=tuple(arguments.workloads),
    )
    command = " ".join(["python -m benchmarks.gpu.sweep", *sys.argv[1:]])
    try:
        complete = asyncio.run(sweep(settings, arguments.into, command))
    except NotStartingError as error:
        sys.exit(f"error: {error}")
    if not complete:
        print(f"windows are missing: call it again to go on\n  {command}")
        sys.exit(EXIT_INCOMPLETE)


if __name__ == "__main__":
    main()
