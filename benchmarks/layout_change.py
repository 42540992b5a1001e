"""Layouts changed under load, from 1 to 2 to 4 replicas and back: capacity over time, failures.

The real agent with HAProxy, on the SIMULATED engine and GPU. All memory is divided among the
replicas of a layout, so a change stops replicas before it can start others; the fewest that could
be in rotation meanwhile are compared with what memory allows. Then changes whose new replicas do
not start, taken back after as many failures as let the operator give a layout up. Run with
``python -m benchmarks.layout_change``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

from benchmarks import report
from benchmarks.fault_rig.counting import CountingLoad, Kind
from benchmarks.pack import MODEL_NAME, Pack, in_rotation, running, simulated
from slm_operator.decide.failures import LAYOUT_GIVE_UP_FAILURES
from slm_worker.gpu.simulated.faults import FaultKind, Injection
from slm_worker.gpu.simulated.inject import inject
from slm_worker.wire import PackState

NAME = "layout_change"
WALK = (1, 2, 4, 1)
FAILING = ((2, 4), (1, 2))
"""Changes whose new replicas find no memory: one that leaves a replica, and one that cannot."""
MAX_NUM_SEQS = 8
CLIENTS = 40
"""More than four replicas take at once."""
OUTPUT_TOKENS = 32
START_SECONDS = 2.0
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Moment:
    after_seconds: float
    """Since the plan was accepted."""
    in_rotation: int
    completed: int
    """Requests since then."""


@dataclass(frozen=True)
class Change:
    """One change of the layout. ``moments``: as often as the pack's state was read."""

    before: int
    after: int
    seconds: float
    silence_seconds: float
    """Longest time in which no client received anything."""
    start_seconds: float | None
    """Of the first replica that runs at the end."""
    failed_requests: int
    moments: tuple[Moment, ...]

    @property
    def fewest_in_rotation(self) -> int:
        return min(one.in_rotation for one in self.moments)


def fewest_that_memory_asks(before: int, after: int) -> int:
    """How many of ``before`` replicas can serve while the first of ``after`` starts, when each
    layout divides all memory evenly."""
    stopped = -(-before // after)
    return before - stopped


@asynccontextmanager
async def pack_under_load(
    start_seconds: float = START_SECONDS, clients: int = CLIENTS
) -> AsyncIterator[tuple[Pack, CountingLoad]]:
    """With the first layout of the walk."""
    async with running(simulated(start_seconds, MAX_NUM_SEQS)) as pack:
        await pack.settle(WALK[0], WALK[0])
        load = CountingLoad(
            url=pack.url,
            model_name=MODEL_NAME,
            clients=clients,
            output_tokens=OUTPUT_TOKENS,
            rng=random.Random(0),
        )
        async with load.running():
            await load.until_completed(clients)
            yield pack, load


async def change(pack: Pack, load: CountingLoad, after: int) -> Change:
    """Walks to another layout, until it is settled and all clients were served again."""
    watch = Watch(pack, load, len((await pack.state()).replicas), after)
    await pack.plan(after, after)
    await watch.until(lambda state: state.settled)
    return await watch.change()


async def change_that_fails(pack: Pack, load: CountingLoad, before: int, after: int) -> Change:
    """Walks to a layout whose replicas find no memory, and back once one has failed so often that
    the operator gives the layout up: the agent itself keeps to its plan."""
    await pack.settle(before, before)
    watch = Watch(pack, load, before, after)
    await inject(pack.gpu_socket(), Injection(kind=FaultKind.START_OUT_OF_MEMORY, starts=1000))
    await pack.plan(after, after)
    await watch.until(
        lambda state: any(one.failures >= LAYOUT_GIVE_UP_FAILURES for one in state.replicas)
    )
    await inject(pack.gpu_socket(), Injection(kind=FaultKind.HEAL))
    await pack.plan(before, before)
    await watch.until(lambda state: state.settled)
    return await watch.change()


class Watch:
    """Notes how a pack changes, from now on."""

    def __init__(self, pack: Pack, load: CountingLoad, before: int, after: int) -> None:
        self._pack = pack
        self._load = load
        self._before, self._after = before, after
        self._began_seconds = load.now_seconds()
        self._completed = load.ended[Kind.COMPLETED]
        self._moments: list[Moment] = []
        self._state: PackState | None = None

    async def until(self, condition: Callable[[PackState], bool]) -> None:
        def noted(state: PackState) -> bool:
            self._note(state)
            return condition(state)

        self._state = await self._pack.until(noted, POLL_SECONDS)

    async def change(self) -> Change:
        """What was seen, once all clients were served again."""
        seconds = self._load.now_seconds() - self._began_seconds
        await self._load.until_completed(2 * self._load.clients)
        return Change(
            before=self._before,
            after=self._after,
            seconds=seconds,
            silence_seconds=self._load.longest_silence_seconds(self._began_seconds),
            start_seconds=self._state.replicas[0].start_seconds if self._state else None,
            failed_requests=len(self._load.failures_since(self._began_seconds)),
            moments=tuple(self._moments),
        )

    def _note(self, state: PackState) -> None:
        self._moments.append(
            Moment(
                after_seconds=self._load.now_seconds() - self._began_seconds,
                in_rotation=in_rotation(state),
                completed=self._load.ended[Kind.COMPLETED] - self._completed,
            )
        )


async def measure() -> tuple[list[Change], list[Change]]:
    """The changes of the walk, and those that were taken back."""
    async with pack_under_load() as (pack, load):
        walked = [await change(pack, load, after) for after in WALK[1:]]
        taken_back = [await change_that_fails(pack, load, *one) for one in FAILING]
    return walked, taken_back


def figures(walked: list[Change], taken_back: list[Change]) -> dict[str, report.Figure]:
    found: dict[str, report.Figure] = {"simulated": True, "clients": CLIENTS}
    for names, changes in (("", walked), ("failing_", taken_back)):
        for one in changes:
            name = f"{names}{one.before}_to_{one.after}"
            found |= {
                f"{name}_seconds": one.seconds,
                f"{name}_fewest_in_rotation": one.fewest_in_rotation,
                f"{name}_fewest_that_memory_asks": fewest_that_memory_asks(one.before, one.after),
                f"{name}_longest_silence_seconds": one.silence_seconds,
                f"{name}_one_start_seconds": one.start_seconds,
                f"{name}_failed_requests": one.failed_requests,
            }
    return found


def main() -> None:
    walked, taken_back = asyncio.run(measure())
    report.write(
        NAME,
        figures(walked, taken_back),
        f"python -m benchmarks.{NAME}",
        {"walk": [asdict(one) for one in walked], "failing": [asdict(one) for one in taken_back]},
    )


if __name__ == "__main__":
    main()
