"""The agent as a process: replicas on standby, faults of the GPU, and a predecessor's leftovers."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from pathlib import Path

from agent_process import (
    SIMULATED,
    WAIT_SECONDS,
    AgentProcess,
    Users,
    agent,
    loopback_address,
    plan,
    replica,
)
from slm_worker.gpu.simulated.device import SOCKET_NAME
from slm_worker.gpu.simulated.faults import FaultKind, Injection
from slm_worker.gpu.simulated.inject import inject
from slm_worker.replicas.faults import FAULTS_UNTIL_SET_APART
from slm_worker.replicas.leftovers import (
    MARKER_VARIABLE,
    OWNER_FILE,
    RUN_DIR_PREFIX,
    claim,
    marker,
)
from slm_worker.wire import PackState, ReplicaPhase


async def test_standby_gives_memory_back_and_joins_without_losing_a_request(
    tmp_path: Path,
) -> None:
    async with agent(tmp_path) as pack:
        await pack.until("a first sample", lambda state: state.counters)
        resting = await pack.settle(plan(1, 2, 1, standby="Asleep"))
        assert [one.phase for one in resting.replicas] == [ReplicaPhase.READY, ReplicaPhase.ASLEEP]
        assert resting.standby_message == ""
        users = Users(pack)
        await users.until_answered(10)
        joined = await pack.settle(plan(2, 2, standby="Asleep"))
        assert [one.in_rotation for one in joined.replicas] == [True, True]
        await users.until_answered(20)
        await pack.settle(plan(3, 2, 1, standby="Asleep"))
        await users.until_answered(10)
        await users.stop()
        assert set(users.answers) == {200}
        assert [one.starts for one in (await pack.state()).replicas] == [1, 1]


async def test_a_replica_that_faults_the_gpu_again_and_again_is_set_apart(tmp_path: Path) -> None:
    config = SIMULATED | {"engine": {"kind": "Simulated", "args": ["--start-seconds", "0"]}}
    async with agent(tmp_path, config) as pack:
        await pack.until("a first sample", lambda state: state.counters)
        await pack.settle(plan(1, 2))
        [gpu] = pack.tmp.glob(f"{RUN_DIR_PREFIX}*/gpu/{SOCKET_NAME}")
        for fault in range(FAULTS_UNTIL_SET_APART):
            before = await pack.until("both serve", lambda state: state.settled)
            await inject(gpu, Injection(kind=FaultKind.MPS_FAULT, pid=replica(before, 1).pid))
            await _until_fault(pack, fault + 1, before)
        apart = await pack.until(
            "the rest serves",
            lambda state: (
                replica(state, 1).phase is ReplicaPhase.SET_APART and replica(state, 0).in_rotation
            ),
        )
        assert apart.problem is not None and apart.problem.reason == "SetApart"
        assert not apart.settled and await pack.ready()
        assert await pack.complete() == 200
        lone = await pack.settle(plan(2, 1))
        assert lone.problem is None


async def test_what_a_killed_agent_left_is_replaced(tmp_path: Path) -> None:
    address = loopback_address()
    # A folder of this test's own, in which no other pack comes and goes.
    old = Path(tempfile.mkdtemp(prefix=RUN_DIR_PREFIX, dir=tempfile.mkdtemp()))
    claim(old, address)
    left = await asyncio.create_subprocess_exec(
        "sleep",
        "600",
        env=os.environ | {MARKER_VARIABLE: marker(address, 0)},
        start_new_session=True,
    )
    env = {"POD_IP": address, "TMPDIR": str(old.parent)}
    async with agent(tmp_path, env=env) as pack:
        await pack.until("a first sample", lambda state: state.counters)
        await pack.settle(plan(1, 1))
        async with asyncio.timeout(WAIT_SECONDS):
            assert await left.wait() == -signal.SIGTERM
        assert not old.exists()
        assert await pack.complete() == 200
        # Its children end with it, but its run directory stays.
        pack.process.kill()
        await pack.process.wait()
    async with agent(tmp_path, env=env) as successor:
        await successor.until("a first sample", lambda state: state.counters)
        await successor.settle(plan(1, 1))
        assert await successor.terminate() == 0
    owners = [file.read_text() for file in old.parent.glob(f"{RUN_DIR_PREFIX}*/{OWNER_FILE}")]
    assert address not in owners
    shutil.rmtree(old.parent)


async def _until_fault(pack: AgentProcess, number: int, before: PackState) -> None:
    """Until the pack tells of so many faults, and of what they do to it, or has done."""

    def told(state: PackState) -> bool:
        suffers = state.problem is not None and not state.settled
        restarted = replica(state, 0).starts > replica(before, 0).starts
        return state.gpu.mps_faults == number and (suffers or restarted)

    await pack.until("the fault is told", told)
