"""The agent on a real GPU: real NVML, MPS where the driver has it, and vLLM with dummy weights."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from benchmarks.fault_rig.counting import CountingLoad
from benchmarks.fault_rig.incidents import IN_FLIGHT, Incident, account
from benchmarks.gpu.sweep import pack_on_gpu, settled
from benchmarks.pack import Pack, in_rotation
from slm_worker.gpu.mps_control import CONTROL, DRIVER_PROGRAMS

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(590)]

MODEL = "qwen2.5-0.5b"
MOMENT_SECONDS = 2.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pack]:
    """Two settled replicas."""
    folder = tmp_path_factory.mktemp("model")
    async with pack_on_gpu(MODEL, folder, {}) as running:
        await running.plan(replicas=2, rotation=2)
        await settled(running)
        yield running


@asynccontextmanager
async def load_on(pack: Pack) -> AsyncIterator[CountingLoad]:
    load = CountingLoad(
        url=pack.url, model_name=MODEL, clients=64, output_tokens=64, rng=random.Random(0)
    )
    async with load.running():
        await load.until_completed(load.clients)
        yield load


async def test_the_gpu_says_who_it_is_and_what_it_uses(pack: Pack) -> None:
    state = await pack.state()
    assert (state.gpu.kind, state.gpu.simulated) == ("NVIDIA", False)
    assert state.gpu.uuid.startswith("GPU-") and state.gpu.driver_version
    assert state.gpu.power_watts and state.gpu.memory_used_bytes
    assert state.gpu.health.state in ("Healthy", "Degraded")


async def test_energy_is_counted_while_tokens_are_written(pack: Pack) -> None:
    before = (await pack.until(lambda state: state.counters is not None)).counters
    async with load_on(pack) as load:
        await load.until_completed(50)
    after = (await pack.state()).counters
    assert before and after and after.output_tokens > before.output_tokens
    assert (await pack.state()).gpu.energy_source in ("Counter", "Integrated")
    assert before.energy_millijoules is not None and after.energy_millijoules is not None
    assert after.energy_millijoules > before.energy_millijoules


async def test_replicas_share_by_mps_where_the_driver_has_it(pack: Pack) -> None:
    has_control = shutil.which(CONTROL) or shutil.which(CONTROL, path=DRIVER_PROGRAMS)
    state = await pack.state()
    assert in_rotation(state) == 2
    if has_control:
        assert state.gpu.mps == "Running", state.gpu.mps_message
    else:
        assert state.gpu.mps == "Unavailable" and CONTROL in state.gpu.mps_message


async def test_a_killed_replica_takes_only_its_own_requests_along(pack: Pack) -> None:
    victim = (await pack.state()).replicas[0]
    assert victim.pid is not None
    async with load_on(pack) as load:
        at_seconds = load.now_seconds()
        os.kill(victim.pid, signal.SIGKILL)
        await pack.until(lambda state: not state.settled)
        await pack.until(lambda state: state.settled)
        await load.until_completed(2 * load.clients)
    killed = Incident("killed", at_seconds, at_seconds + MOMENT_SECONDS, IN_FLIGHT)
    assert account(load.failures, [killed]).unexplained == ()


async def test_one_more_replica_and_one_less_cost_no_request(pack: Pack) -> None:
    async with load_on(pack) as load:
        for replicas in (1, 2):
            await pack.settle(replicas, replicas)
            await load.until_completed(2 * load.clients)
    assert load.failures == []
