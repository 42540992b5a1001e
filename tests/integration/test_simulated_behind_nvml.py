"""The agent reads a simulated GPU through NVML, and its simulated engines run on it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from agent_process import SIMULATED, agent, plan
from nvml_standin import build, environment
from simulated_pack import standalone_gpu
from slm_worker.gpu.simulated.client import SOCKET_VARIABLE
from slm_worker.gpu.simulated.faults import FaultKind, Injection
from slm_worker.gpu.simulated.inject import inject
from slm_worker.wire import GpuState


def holds_memory(gpu: GpuState) -> bool:
    return (gpu.memory_used_bytes or 0) > 50 * 2**30


async def test_simulated_engines_run_on_a_gpu_that_is_read_through_nvml(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    library = build(tmp_path_factory.getbasetemp())
    config = SIMULATED | {"gpu": {"kind": "NVIDIA"}}
    with TemporaryDirectory() as short:  # a socket's path must be
        async with standalone_gpu(Path(short)) as (socket, state):
            env = environment(library, state=state) | {SOCKET_VARIABLE: str(socket)}
            async with agent(tmp_path, config, env) as pack:
                await pack.until("an answer", lambda _: True)
                settled = await pack.settle(plan(1, replicas=1))
                assert settled.gpu.kind == "NVIDIA"
                assert await pack.complete() == 200
                await pack.until("memory in use", lambda s: holds_memory(s.gpu))

                await inject(socket, Injection(kind=FaultKind.GPU_LOST))
                lost = await pack.until("lost", lambda s: s.gpu.health.state == "Lost")
                assert lost.counters is not None
                assert lost.counters.energy_millijoules is None
