"""Random faults and plan changes under load: what fails, what leaks, how long capacity is down.

The real agent with HAProxy, on the SIMULATED engine and GPU. Run with ``python -m
benchmarks.faults_soak --minutes 30 --seed 1``; the seed decides the order of the steps. Every
request is accounted for: completed, or explained by a fault that had it in flight. About once a
minute the load pauses, the pack settles, and what it holds of the machine is read. The agent is
killed only in the first fifth of the time, so that afterwards one process shows its whole growth.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Literal

import psutil

from benchmarks import report
from benchmarks.fault_rig.belongings import (
    Belongings,
    bytes_per_minute,
    growth_bytes,
    leftovers,
    look,
)
from benchmarks.fault_rig.breaking import (
    ENDED_SECONDS,
    FAULTS,
    MOMENT_SECONDS,
    Lasts,
    ended,
    incidents,
    suffer,
)
from benchmarks.fault_rig.clock import JumpingClock
from benchmarks.fault_rig.counting import CountingLoad, Kind
from benchmarks.fault_rig.incidents import TIME_LEAPS, Account, Incident, account
from benchmarks.pack import MODEL_NAME, Pack, in_rotation, running, simulated

NAME = "faults_soak"
CLIENTS = 12
OUTPUT_TOKENS = 16
MAX_NUM_SEQS = 4
MOST_REPLICAS = 4
LOOK_SECONDS = 60.0
LOOKED_AT_REPLICAS = 2
AGENT_KILLS_SHARE = 0.2
"""Of the time, at its beginning: the agent may be killed."""
LONGEST_JUMP_SECONDS = 86_400

PLAN = "plan"
JUMP = "clock jump"
WEIGHTS = {
    PLAN: 12,
    "replica killed": 4,
    "replica crashed": 2,
    "out of memory at start": 2,
    "router killed": 2,
    "MPS fatal fault": 2,
    "GPU lost": 1,
    "replica hung": 1,
    "agent killed": 1,
    JUMP: 1,
}
DURING_A_CHANGE = ("replica killed", "router killed", "MPS fatal fault")
"""Faults that also strike while the pack walks to a plan."""


@dataclass(frozen=True)
class Step:
    """One thing that happens: a plan, a fault, or a fault while a plan is carried out."""

    what: str
    pause_seconds: float
    replicas: int = 0
    rotation: int = 0
    mode: Literal["Concentrate", "Spread"] = "Concentrate"
    standby: Literal["Awake", "Asleep"] = "Awake"
    victim: int = 0
    shift_seconds: int = 0
    fault_during: str | None = None


@dataclass(frozen=True)
class Happened:
    step: Step
    at_seconds: float
    settled_after_seconds: float
    silence_seconds: float
    survivors: bool
    """Whether somebody could serve all the time."""


@dataclass
class Diary:
    """All that the figures are computed from. Times are of the load's clock."""

    began_seconds: float
    happened: list[Happened]
    incidents: list[Incident]
    looks: list[Belongings]


def steps(seed: int, agent_may_die: Iterator[bool]) -> Iterator[Step]:
    """The endless schedule of a seed. While the agent may not die, its deaths are left out."""
    rng = random.Random(seed)
    for allowed in agent_may_die:
        (what,) = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))
        replicas = rng.randint(1, MOST_REPLICAS)
        step = Step(
            what=what,
            pause_seconds=rng.uniform(0.0, 2.0),
            replicas=replicas if what == PLAN else 0,
            rotation=rng.randint(1, replicas) if what == PLAN else 0,
            mode=rng.choice(("Concentrate", "Spread")),
            standby=rng.choice(("Awake", "Asleep")),
            victim=rng.randrange(MOST_REPLICAS),
            shift_seconds=rng.randint(-LONGEST_JUMP_SECONDS, LONGEST_JUMP_SECONDS),
            fault_during=rng.choice(DURING_A_CHANGE) if rng.random() < 0.25 else None,
        )
        if what != "agent killed" or allowed:
            yield step


class Soak:
    """``now_seconds`` of the load is the clock of everything here."""

    def __init__(self, pack: Pack, load: CountingLoad, clock: JumpingClock) -> None:
        self._pack = pack
        self._load = load
        self._clock = clock
        self.diary = Diary(load.now_seconds(), [], [], [])

    async def run(self, seconds: float, seed: int, look_seconds: float) -> None:
        """Raises TimeoutError where the pack does not heal."""
        began = self._load.now_seconds()
        await self.look()

        def agent_may_die() -> Iterator[bool]:
            while True:
                yield self._load.now_seconds() < began + AGENT_KILLS_SHARE * seconds

        due = began + look_seconds
        for step in steps(seed, agent_may_die()):
            await self._carry_out(step)
            if self._load.now_seconds() >= due:
                await self.look()
                due = self._load.now_seconds() + look_seconds
            if self._load.now_seconds() >= began + seconds:
                break
            await asyncio.sleep(step.pause_seconds)
        await self.look()

    async def look(self) -> None:
        """Always at the same plan, so that two looks can be compared."""
        await self._load.pause()
        await self._pack.settle(LOOKED_AT_REPLICAS, LOOKED_AT_REPLICAS)
        # What the agent opens for a moment only is not there at every look.
        looks = []
        for _ in range(5):
            looks.append(look(self._pack, self._load.now_seconds()))
            await asyncio.sleep(0.2)
        self.diary.looks.append(min(looks, key=lambda one: (one.processes, one.agent.files)))
        self._load.resume()

    async def _carry_out(self, step: Step) -> None:
        began = self._load.now_seconds()
        survivors = in_rotation(await self._pack.state()) > 1
        if step.what == PLAN:
            survivors = False  # a lone replica that makes room leaves nobody
            await self._change_plan(step)
        elif step.what == JUMP:
            survivors = True
            self._clock.jump_to(step.shift_seconds)
            # One of these was sent after the jump: the router has read the clock since.
            await self._load.until_completed(CLIENTS + 1)
            until = self._load.now_seconds() + MOMENT_SECONDS
            self.diary.incidents.append(Incident(JUMP, began, until, TIME_LEAPS))
        else:
            survivors = survivors and FAULTS[step.what].survives
            await self._suffer(step)
        now = self._load.now_seconds()
        silence = self._load.longest_silence_seconds(began)
        self.diary.happened.append(
            Happened(step, began - self.diary.began_seconds, now - began, silence, survivors)
        )

    async def _change_plan(self, step: Step) -> None:
        await self._pack.plan(step.replicas, step.rotation, step.mode, step.standby)
        if step.fault_during is not None:
            await asyncio.sleep(step.pause_seconds)
            await self._strike_during_change(step.fault_during)
        await self._pack.until(lambda state: state.settled and state.problem is None)

    async def _strike_during_change(self, name: str) -> None:
        """Whatever the pack does at that moment; a victim that ends meanwhile is none."""
        state, fault = await self._pack.state(), FAULTS[name]
        victim = next((one for one in state.replicas if one.pid is not None), None)
        if victim is None:
            return
        at_seconds = self._load.now_seconds()
        struck: Sequence[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            struck = await fault.make(self._pack, state, victim)
        ending = fault.lasts is Lasts.UNTIL_ENDED
        if ending:
            until_seconds = await ended(struck, self._load) + MOMENT_SECONDS
        # The pack is on its way anyway, so nothing tells when it has noticed.
        await asyncio.sleep(MOMENT_SECONDS)
        await self._pack.until(lambda now: now.settled and now.problem is None)
        if not ending:
            until_seconds = self._load.now_seconds()
        self.diary.incidents += incidents(
            self._pack, fault, at_seconds, until_seconds, f"{name}, in a change"
        )

    async def _suffer(self, step: Step) -> None:
        # Another fault may still be on its way to being noticed, and a victim has to run.
        state = await self._pack.until(lambda state: state.settled and state.problem is None)
        indices = [one.index for one in state.replicas]
        victim = indices[step.victim % len(indices)]
        suffered = await suffer(self._pack, self._load, FAULTS[step.what], victim)
        self.diary.incidents += suffered.incidents


async def soak(
    seconds: float, seed: int, look_seconds: float
) -> tuple[Diary, CountingLoad, tuple[str, ...]]:
    """The diary, the load with its count, and what is left over when the pack has ended."""
    with tempfile.TemporaryDirectory(prefix="slm-soak-") as folder:
        clock = JumpingClock(Path(folder))
        kind = simulated(start_seconds=0.2, max_num_seqs=MAX_NUM_SEQS)
        async with running(replace(kind, environment=clock.environment)) as pack:
            await pack.settle(LOOKED_AT_REPLICAS, LOOKED_AT_REPLICAS)
            load = CountingLoad(
                url=pack.url,
                model_name=MODEL_NAME,
                clients=CLIENTS,
                output_tokens=OUTPUT_TOKENS,
                rng=random.Random(seed),
            )
            async with load.running():
                await load.until_completed(CLIENTS)
                work = Soak(pack, load, clock)
                await work.run(seconds, seed, look_seconds)
            agent = pack.agent()
            family = [agent, *agent.children(recursive=True)]
            await asyncio.to_thread(pack.stop)
            await asyncio.to_thread(psutil.wait_procs, family, ENDED_SECONDS)
            left = leftovers(family, pack.address, pack.tmp)
    return work.diary, load, left


def figures(
    diary: Diary, load: CountingLoad, accounted: Account, left: Sequence[str]
) -> dict[str, report.Figure]:
    """Of one soak. Growth is of the last agent's life, between looks at the same plan."""
    looks = [one for one in diary.looks if one.agent_pid == diary.looks[-1].agent_pid]
    agent = [(one.at_seconds, one.agent.resident_bytes) for one in looks]
    routers = [one.router.resident_bytes for one in looks]
    found: dict[str, report.Figure] = {
        "simulated": True,
        "steps": len(diary.happened),
        "requests_sent": load.sent,
        "requests_completed": load.ended[Kind.COMPLETED],
        "requests_failed_explained": accounted.explained.total(),
        "requests_failed_unexplained": len(accounted.unexplained),
        "requests_unaccounted": load.sent - load.ended.total(),
    }
    for cause, number in sorted(accounted.explained.items()):
        found[f"explained_by_{cause.replace(' ', '_').replace(',', '')}"] = number
    silences = defaultdict(list)
    for one in diary.happened:
        silences["survivors" if one.survivors else "nobody_left"].append(one.silence_seconds)
    for who, lengths in silences.items():
        found[f"capacity_down_{who}_median_seconds"] = median(lengths)
        found[f"capacity_down_{who}_longest_seconds"] = max(lengths)
    return found | {
        "agent_looks": len(looks),
        "agent_resident_first_bytes": agent[0][1],
        "agent_resident_last_bytes": agent[-1][1],
        "agent_growth_bytes": growth_bytes(agent),
        "agent_growth_bytes_per_minute": bytes_per_minute(agent[len(agent) // 3 :]),
        "agent_files": _range(one.agent.files for one in looks),
        "router_resident_most_bytes": max(routers),
        "router_files": _range(one.router.files for one in looks),
        "gpu_daemon_files": _range(one.gpu.files for one in looks),
        "processes": _range(one.processes for one in diary.looks),
        "listening_ports": _range(one.listening_ports for one in diary.looks),
        "temporary_files": _range(one.files for one in diary.looks),
        "shared_memory_files_growth": looks[-1].shared_memory_files - looks[0].shared_memory_files,
        "left_at_the_end": len(left),
    }


def _range(values: Iterator[int]) -> str:
    found = list(values)
    return f"{min(found)} to {max(found)}"


def raw(diary: Diary, load: CountingLoad, left: Sequence[str], seed: int) -> dict[str, object]:
    """Seed and schedule with what every step did, and all looks."""
    return {
        "seed": seed,
        "kinds": {kind.value: number for kind, number in load.ended.items()},
        "steps": [_line(one) for one in diary.happened],
        "looks": [asdict(one) for one in diary.looks],
        "left": list(left),
    }


def _line(one: Happened) -> str:
    step = one.step
    what = step.what
    if step.what == PLAN:
        what += f" {step.rotation} of {step.replicas}, {step.mode}, {step.standby}"
        what += f", with {step.fault_during}" if step.fault_during else ""
    return (
        f"{one.at_seconds:.1f} s: {what}; settled after {one.settled_after_seconds:.1f} s, "
        f"longest silence {max(0.0, one.silence_seconds):.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    diary, load, left = asyncio.run(soak(60 * arguments.minutes, arguments.seed, LOOK_SECONDS))
    accounted = account(load.failures, diary.incidents)
    report.write(
        NAME,
        {"minutes": arguments.minutes, "seed": arguments.seed}
        | figures(diary, load, accounted, left),
        f"python -m benchmarks.{NAME} --minutes {arguments.minutes:g} --seed {arguments.seed}",
        raw(diary, load, left, arguments.seed)
        | {"unexplained": [asdict(one) for one in accounted.unexplained]},
    )


if __name__ == "__main__":
    main()
