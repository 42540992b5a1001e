"""The faults of a simulated pack: how each is made, how the pack shows it, and what it may cost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

import psutil

from benchmarks.fault_rig.counting import CountingLoad, Kind
from benchmarks.fault_rig.incidents import (
    IN_FLIGHT,
    NOTHING_LEFT,
    REFUSED,
    ROUTER_GONE,
    Incident,
)
from benchmarks.pack import Pack
from slm_worker.gpu.simulated.faults import FaultKind, Injection
from slm_worker.gpu.simulated.inject import inject
from slm_worker.wire import PackState, ReplicaState

MOMENT_SECONDS = 0.5
"""How long after the end of a process a request may still be given to it: the router has yet to
read that its connections are closed."""
ENDED_SECONDS = 120.0
MOST_RELAYED = 3
"""Requests at once: one of each backend of the router."""


class Lasts(Enum):
    """Until when a request that was sent may still suffer from a fault."""

    UNTIL_ENDED = auto()
    """The processes that the fault takes along."""
    UNTIL_SEEN = auto()
    UNTIL_SETTLED = auto()


Make = Callable[[Pack, PackState, ReplicaState], Awaitable[Sequence[psutil.Process]]]


@dataclass(frozen=True)
class Fault:
    name: str
    make: Make
    """Given the pack as it is, and the replica that shall suffer where only one does. Answers
    which processes end by it."""
    shows: Callable[[PackState, PackState], bool]
    """Whether the second state, compared with the one before the fault, shows it."""
    kinds: frozenset[Kind]
    """In which ways requests may fail by it."""
    lasts: Lasts
    one_replica: bool
    """Whether only what one replica had in flight may fail; otherwise all that was in flight."""
    survives: bool
    """Whether somebody serves all the time."""
    heals: bool = True
    """Whether the pack heals by itself; otherwise the simulated GPU has to be mended."""


@dataclass(frozen=True)
class Suffered:
    """What one fault did. ``silence_seconds``: longest time in which no client got anything.
    ``completed_before_seen``, ``completed_before_settled``: requests between the fault and then."""

    incidents: tuple[Incident, ...]
    seen: PackState
    settled: PackState
    seen_after_seconds: float
    settled_after_seconds: float
    silence_seconds: float
    completed_before_seen: int
    completed_before_settled: int


async def suffer(pack: Pack, load: CountingLoad, fault: Fault, victim: int = 0) -> Suffered:
    """Makes a fault in a settled pack under load, and waits until the pack has healed.

    ``victim``: index of the replica that suffers where only one does. The first in rotation has
    the most requests.
    """
    before = await pack.state()
    at_seconds, completed = load.now_seconds(), load.ended[Kind.COMPLETED]
    struck = await fault.make(pack, before, replica(before, victim))
    ending = asyncio.create_task(ended(struck, load))
    seen = await pack.until(lambda state: fault.shows(before, state))
    seen_seconds, completed_seen = load.now_seconds(), load.ended[Kind.COMPLETED]
    if not fault.heals:
        await inject(pack.gpu_socket(), Injection(kind=FaultKind.HEAL))
    settled = await pack.until(lambda state: state.settled and state.problem is None)
    settled_seconds, completed_settled = load.now_seconds(), load.ended[Kind.COMPLETED]
    await load.until_completed(2 * load.clients)
    until_seconds = await ending + MOMENT_SECONDS
    if fault.lasts is Lasts.UNTIL_SEEN:
        until_seconds = max(until_seconds, seen_seconds)
    elif fault.lasts is Lasts.UNTIL_SETTLED:
        until_seconds = max(until_seconds, settled_seconds)
    return Suffered(
        incidents=incidents(pack, fault, at_seconds, until_seconds),
        seen=seen,
        settled=settled,
        seen_after_seconds=seen_seconds - at_seconds,
        settled_after_seconds=settled_seconds - at_seconds,
        silence_seconds=load.longest_silence_seconds(at_seconds),
        completed_before_seen=completed_seen - completed,
        completed_before_settled=completed_settled - completed,
    )


async def ended(processes: Sequence[psutil.Process], load: CountingLoad) -> float:
    """When the last of them was gone, by the load's clock; now, if there are none. Raises
    TimeoutError."""
    _, left = await asyncio.to_thread(psutil.wait_procs, processes, ENDED_SECONDS)
    if left:
        raise TimeoutError(f"not gone {ENDED_SECONDS:g} s after the fault: {left}")
    return load.now_seconds()


def incidents(
    pack: Pack, fault: Fault, at_seconds: float, until_seconds: float, name: str = ""
) -> tuple[Incident, ...]:
    """What a fault explains. ``until_seconds``: when it was over."""
    name = name or fault.name
    if fault.one_replica:
        # A process that dies loses its connections one after another, and each place that becomes
        # free may be given to a request that waits, as long as the process still listens.
        return (Incident(name, at_seconds, until_seconds, fault.kinds, 2 * pack.most_in_flight),)
    everything = Incident(name, at_seconds, until_seconds, fault.kinds)
    # What the agent relays, because nobody served when it came, is answered 503 where its replica
    # dies: nothing tells the agent how far that was with it.
    relayed = Incident(f"{name}, relayed", at_seconds, until_seconds, REFUSED, MOST_RELAYED)
    return everything, relayed


def replica(state: PackState, index: int) -> ReplicaState:
    """Raises RuntimeError where it does not run."""
    for one in state.replicas:
        if one.index == index and one.pid is not None:
            return one
    raise RuntimeError(f"replica {index} does not run: {state.replicas}")


def shows_problem(reason: str) -> Callable[[PackState, PackState], bool]:
    """Whether a replica says that it failed for ``reason``."""

    def shows(_: PackState, state: PackState) -> bool:
        problems = (one.problem for one in state.replicas)
        return any(problem is not None and problem.reason == reason for problem in problems)

    return shows


async def _kill_replica(
    _pack: Pack, _state: PackState, victim: ReplicaState
) -> Sequence[psutil.Process]:
    process = _process(victim)
    process.kill()
    return [process]


async def _stop_replica(
    _pack: Pack, _state: PackState, victim: ReplicaState
) -> Sequence[psutil.Process]:
    process = _process(victim)
    process.suspend()
    return [process]


async def _kill_router(
    pack: Pack, _state: PackState, _victim: ReplicaState
) -> Sequence[psutil.Process]:
    routers = [child for child in pack.agent().children() if child.name() == "haproxy"]
    for router in routers:
        router.kill()
    return routers


async def _kill_agent(
    pack: Pack, state: PackState, _victim: ReplicaState
) -> Sequence[psutil.Process]:
    """SIGKILL, and a new one at once, as the node starts it; it is told the plan again."""
    await asyncio.to_thread(pack.kill)
    pack.start()
    await pack.until_answering()
    if state.plan is not None:
        await pack.plan(state.plan.layout.replicas, state.plan.rotation)
    return []


async def _crash_replica(
    pack: Pack, _state: PackState, victim: ReplicaState
) -> Sequence[psutil.Process]:
    process = _process(victim)
    await inject(pack.gpu_socket(), Injection(kind=FaultKind.CRASH, pid=victim.pid))
    return [process]


async def _kill_replica_that_finds_no_memory(
    pack: Pack, state: PackState, victim: ReplicaState
) -> Sequence[psutil.Process]:
    await inject(pack.gpu_socket(), Injection(kind=FaultKind.START_OUT_OF_MEMORY, starts=1))
    return await _kill_replica(pack, state, victim)


def _ends_all(kind: FaultKind) -> Make:
    async def make(pack: Pack, state: PackState, _victim: ReplicaState) -> Sequence[psutil.Process]:
        every = [_process(one) for one in state.replicas if one.pid is not None]
        await inject(pack.gpu_socket(), Injection(kind=kind))
        return every

    return make


def _process(of: ReplicaState) -> psutil.Process:
    if of.pid is None:
        raise RuntimeError(f"replica {of.index} does not run")
    return psutil.Process(of.pid)


def _another_agent(before: PackState, now: PackState) -> bool:
    return now.agent_id != before.agent_id


def _router_restarted(before: PackState, now: PackState) -> bool:
    return now.router.restarts > before.router.restarts


def _mps_faulted(before: PackState, now: PackState) -> bool:
    return now.gpu.mps_faults > before.gpu.mps_faults


def _gpu_lost(_: PackState, now: PackState) -> bool:
    """And no replica is thought to serve any more."""
    lost = now.gpu.health.state == "Lost" and now.problem is not None
    return lost and not any(one.in_rotation for one in now.replicas)


FAULTS = {
    fault.name: fault
    for fault in (
        Fault(
            "replica killed",
            make=_kill_replica,
            shows=shows_problem("EngineKilled"),
            kinds=IN_FLIGHT,
            lasts=Lasts.UNTIL_ENDED,
            one_replica=True,
            survives=True,
        ),
        Fault(
            "replica crashed",
            make=_crash_replica,
            shows=shows_problem("EngineExited"),
            kinds=IN_FLIGHT,
            lasts=Lasts.UNTIL_ENDED,
            one_replica=True,
            survives=True,
        ),
        Fault(
            "replica hung",
            make=_stop_replica,
            shows=shows_problem("Hung"),
            kinds=IN_FLIGHT,
            lasts=Lasts.UNTIL_SEEN,
            one_replica=True,
            survives=True,
        ),
        Fault(
            "out of memory at start",
            make=_kill_replica_that_finds_no_memory,
            shows=shows_problem("OutOfMemory"),
            kinds=IN_FLIGHT,
            lasts=Lasts.UNTIL_ENDED,
            one_replica=True,
            survives=True,
        ),
        Fault(
            "MPS fatal fault",
            make=_ends_all(FaultKind.MPS_FAULT),
            shows=_mps_faulted,
            kinds=IN_FLIGHT,
            lasts=Lasts.UNTIL_SEEN,
            one_replica=False,
            survives=False,
        ),
        Fault(
            "GPU lost",
            make=_ends_all(FaultKind.GPU_LOST),
            shows=_gpu_lost,
            kinds=IN_FLIGHT,
            lasts=Lasts.UNTIL_SEEN,
            one_replica=False,
            survives=False,
            heals=False,
        ),
        Fault(
            "router killed",
            make=_kill_router,
            shows=_router_restarted,
            kinds=ROUTER_GONE,
            lasts=Lasts.UNTIL_SEEN,
            one_replica=False,
            survives=True,
        ),
        Fault(
            "agent killed",
            make=_kill_agent,
            shows=_another_agent,
            kinds=NOTHING_LEFT,
            lasts=Lasts.UNTIL_SETTLED,
            one_replica=False,
            survives=False,
        ),
    )
}
