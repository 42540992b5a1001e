"""What each fault of a pack costs the requests that it has, and how the pack shows it.

The agent runs as a process with HAProxy and simulated engines, under a load whose every request is
accounted for. The router sends a request again only while nothing of it has reached an engine; so
a request that the broken part had at that moment may fail, and is explained. No other may.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

import psutil
import pytest
import pytest_asyncio

from benchmarks.fault_rig.breaking import FAULTS, MOMENT_SECONDS, Fault, Lasts, suffer
from benchmarks.fault_rig.clock import JumpingClock
from benchmarks.fault_rig.counting import CountingLoad, Kind
from benchmarks.fault_rig.incidents import IN_FLIGHT, TIME_LEAPS, Incident, account
from benchmarks.gpu.stand_ins import StandIns, stand_ins
from benchmarks.gpu.sweep import pack_on_gpu
from benchmarks.pack import Pack, running, simulated
from slm_worker.wire import ROUTER_PORT, PackState

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLIENTS = 10
"""More than two replicas of four sequences take at once, so that both are full."""
ROUTER_SECONDS = 2.0
"""A router is back at once: after 0.2 s on an idle machine, and not after a round of probes."""
GONE_SECONDS = 60.0
SHORT_JUMP_SECONDS = 45
"""Less than the shortest time after which the router gives a request up."""
DAY_SECONDS = 86_400


@asynccontextmanager
async def load_on(pack: Pack) -> AsyncIterator[CountingLoad]:
    """Running, with all replicas at work."""
    load = CountingLoad(
        url=pack.url,
        model_name=pack.model_name,
        clients=CLIENTS,
        output_tokens=16,
        rng=random.Random(0),
    )
    async with load.running():
        await load.until_completed(3 * CLIENTS)
        yield load


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> JumpingClock:
    return JumpingClock(tmp_path_factory.mktemp("clock"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(clock: JumpingClock) -> AsyncIterator[Pack]:
    kind = simulated(start_seconds=0, max_num_seqs=4)
    async with running(replace(kind, environment=clock.environment)) as pack:
        yield pack


@pytest_asyncio.fixture(loop_scope="module")
async def pack(shared: Pack) -> Pack:
    """Two settled replicas in a pack that all tests share. A layout in between lets the agent
    forget the last test's failures, or it would wait ever longer before it starts a replica."""
    await shared.settle(replicas=1, rotation=1)
    await shared.settle(replicas=2, rotation=2)
    return shared


@pytest.mark.parametrize(
    "fault",
    [fault for fault in FAULTS.values() if fault.one_replica],
    ids=lambda fault: fault.name,
)
async def test_what_one_replica_had_may_fail_and_the_other_serves_on(
    pack: Pack, fault: Fault
) -> None:
    async with load_on(pack) as load:
        suffered = await suffer(pack, load, fault)
    assert account(load.failures, suffered.incidents).unexplained == ()
    # While it was away more requests completed than the other had when it broke.
    meanwhile = (
        suffered.completed_before_seen
        if fault.lasts is Lasts.UNTIL_SEEN
        else suffered.completed_before_settled
    )
    assert meanwhile >= CLIENTS


async def test_a_killed_router_is_back_at_once_and_no_replica_notices(pack: Pack) -> None:
    before = await pack.state()
    async with load_on(pack) as load:
        suffered = await suffer(pack, load, FAULTS["router killed"])
    assert account(load.failures, suffered.incidents).unexplained == ()
    assert suffered.silence_seconds <= ROUTER_SECONDS
    assert processes(suffered.settled) == processes(before)


@pytest.mark.parametrize(
    "fault",
    [fault for fault in FAULTS.values() if not fault.survives],
    ids=lambda fault: fault.name,
)
async def test_a_fault_of_the_whole_set_costs_what_was_in_flight_and_the_rest_waits(
    pack: Pack, fault: Fault
) -> None:
    async with load_on(pack) as load:
        suffered = await suffer(pack, load, fault)
    assert account(load.failures, suffered.incidents).unexplained == ()
    assert suffered.settled.problem is None


async def test_a_killed_agent_leaves_its_successor_a_clean_house(pack: Pack) -> None:
    before = family(pack)
    async with load_on(pack) as load:
        await suffer(pack, load, FAULTS["agent killed"])
    _, left = await asyncio.to_thread(psutil.wait_procs, before, GONE_SECONDS)
    assert left == []
    assert [path.name.startswith("slm-") for path in pack.tmp.iterdir()] == [True]


async def test_the_wall_clock_may_jump_a_little_at_no_cost(pack: Pack, clock: JumpingClock) -> None:
    before = await pack.state()
    async with load_on(pack) as load:
        for shift_seconds in (SHORT_JUMP_SECONDS, -SHORT_JUMP_SECONDS, 0):
            await jump(clock, shift_seconds, load)
    assert load.failures == []
    assert processes(await pack.state()) == processes(before)


async def test_the_wall_clock_may_jump_by_a_day_and_the_pack_serves_on(
    pack: Pack, clock: JumpingClock
) -> None:
    before = await pack.state()
    async with load_on(pack) as load:
        jumps = [
            await jump(clock, shift_seconds, load)
            for shift_seconds in (DAY_SECONDS, -DAY_SECONDS, 0)
        ]
    assert account(load.failures, jumps).unexplained == ()
    assert processes(await pack.state()) == processes(before)


async def test_a_client_that_never_reads_takes_one_place_and_no_other_request(pack: Pack) -> None:
    with never_reading(pack, output_tokens=2000):
        await pack.until(lambda state: working(state) == 1)
        async with load_on(pack) as load:
            await load.until_completed(5 * CLIENTS)
        assert load.failures == []
        # It was there all the time.
        assert working(await pack.until(lambda state: working(state) <= 1)) == 1
    state = await pack.until(lambda state: working(state) == 0)
    assert state.settled and state.problem is None


async def test_a_full_disk_for_logs_costs_nothing() -> None:
    kind = simulated(start_seconds=0, max_num_seqs=4)
    shell = ("sh", "-c", 'exec "$@" >/dev/full 2>&1', "sh")
    async with running(replace(kind, through=shell)) as pack:
        await pack.settle(replicas=1, rotation=1)
        async with load_on(pack) as load:
            await load.until_completed(3 * CLIENTS)
        assert load.failures == []
        assert (await pack.settle(replicas=2, rotation=2)).problem is None


async def jump(clock: JumpingClock, shift_seconds: int, load: CountingLoad) -> Incident:
    """Jumps, and holds that requests complete as ever: what went by the wall clock would be silent
    for as long as the jump."""
    at_seconds = load.now_seconds()
    clock.jump_to(shift_seconds)
    # One of these was sent after the jump: the router has read the clock since.
    await load.until_completed(CLIENTS + 1)
    until_seconds = load.now_seconds() + MOMENT_SECONDS
    await load.until_completed(4 * CLIENTS)
    assert load.longest_silence_seconds(at_seconds) < SHORT_JUMP_SECONDS / 2
    return Incident("clock jump", at_seconds, until_seconds, TIME_LEAPS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def played() -> AsyncIterator[StandIns]:
    async with stand_ins() as machine:
        yield machine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def on_nvidia(
    played: StandIns, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Pack]:
    """Two settled replicas by the agent's code for NVIDIA GPUs, over stand-ins for the driver's
    library, MPS and vLLM."""
    folder = tmp_path_factory.mktemp("model")
    async with pack_on_gpu("opt-1.3b", folder, played.environment) as pack:
        await pack.plan(2, 2, max_num_seqs=4)
        await pack.until(lambda state: state.settled)
        yield pack


async def test_a_driver_that_hangs_is_seen_and_costs_nothing(
    on_nvidia: Pack, played: StandIns
) -> None:
    before = await on_nvidia.state()
    async with load_on(on_nvidia) as load:
        completed = load.ended[Kind.COMPLETED]
        played.hang_driver(True)
        seen = await on_nvidia.until(lambda state: state.gpu.health.state == "Unresponsive")
        assert load.ended[Kind.COMPLETED] >= completed + CLIENTS
        await load.until_completed(2 * CLIENTS)
        played.hang_driver(False)
        await on_nvidia.until(lambda state: state.problem is None and state.settled)
    assert seen.problem is not None and seen.gpu.power_watts is None
    assert load.failures == []
    assert processes(await on_nvidia.state()) == processes(before)


async def test_a_fatal_fault_of_the_mps_daemon_restarts_the_set_and_names_the_cause(
    on_nvidia: Pack, played: StandIns
) -> None:
    cause = "GPU memory access fault"
    async with load_on(on_nvidia) as load:
        at_seconds = load.now_seconds()
        played.fault_mps(cause)
        await on_nvidia.until(lambda state: told(state, cause))
        await on_nvidia.until(lambda state: state.settled and state.problem is None)
        until_seconds = load.now_seconds()
        await load.until_completed(2 * CLIENTS)
    faulted = Incident("MPS fault", at_seconds, until_seconds, IN_FLIGHT)
    assert account(load.failures, [faulted]).unexplained == ()
    after = await on_nvidia.state()
    assert after.gpu.mps_faults == 1
    assert [replica.starts for replica in after.replicas] == [2, 2]


def told(state: PackState, cause: str) -> bool:
    """Whether the pack's problem, a replica's or the GPU's message names ``cause``."""
    problems = [state.problem, *(replica.problem for replica in state.replicas)]
    messages = [problem.message for problem in problems if problem is not None]
    return any(cause in message for message in [*messages, state.gpu.mps_message])


def family(pack: Pack) -> list[psutil.Process]:
    agent = pack.agent()
    return [agent, *agent.children(recursive=True)]


def processes(state: PackState) -> list[int | None]:
    return [replica.pid for replica in state.replicas]


def working(state: PackState) -> int:
    return sum(replica.running or 0 for replica in state.replicas)


@contextmanager
def never_reading(pack: Pack, output_tokens: int) -> Iterator[None]:
    """A stream that somebody asked for, with hardly any room to receive it."""
    body = json.dumps(
        {
            "model": pack.model_name,
            "prompt": [1000],
            "max_tokens": output_tokens,
            "ignore_eos": True,
            "stream": True,
        }
    ).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: pack\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        connection.connect((pack.address, ROUTER_PORT))
        connection.sendall(head.encode() + body)
        yield
