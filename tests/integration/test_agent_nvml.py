"""The agent as a process on an NVIDIA GPU whose driver is the stand-in."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_process import SIMULATED, agent
from nvml_standin import build, environment, write_lines
from slm_worker.wire import PackState

ON_NVIDIA = {**SIMULATED, "gpu": {"kind": "NVIDIA"}}
STATE: dict[str, object] = {
    "memory_total_bytes": 64 << 30,
    "memory_used_bytes": 3 << 30,
    "energy_millijoules": 1_000,
    "power_milliwatts": 443_100,
    "utilization_percent": 97,
}
GPU_IS_LOST = 15


def after(samples_since: PackState, count: int) -> float:
    """Agent clock at which ``count`` more samples are due, at two a second."""
    assert samples_since.counters is not None
    return samples_since.counters.sampled_at_seconds + count / 2


async def test_the_agent_tells_how_its_gpu_fares_and_outlives_all_of_it(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    library = build(tmp_path_factory.getbasetemp())
    script, state = tmp_path / "script", tmp_path / "state"
    write_lines(state, STATE.items())
    write_lines(script, [])
    async with agent(tmp_path, ON_NVIDIA, environment(library, script=script, state=state)) as pack:
        read = await pack.until("a reading", lambda s: s.gpu.power_watts == 443.1)
        assert (read.gpu.kind, read.gpu.uuid) == ("NVIDIA", "GPU-00000000-test")
        assert (read.gpu.memory_used_bytes, read.gpu.utilization_percent) == (3 << 30, 97)
        assert (read.gpu.energy_source, read.gpu.health.state) == ("Counter", "Healthy")

        write_lines(script, [("all_error", GPU_IS_LOST)])
        lost = await pack.until("lost", lambda s: s.gpu.health.state == "Lost")
        assert lost.problem is not None
        assert lost.problem.reason == lost.gpu.health.reason == "GPULost"
        assert lost.gpu.health.since_seconds is not None
        assert lost.counters is not None and lost.counters.energy_millijoules is None

        write_lines(script, [])
        healthy = await pack.until("healthy again", lambda s: s.gpu.health.state == "Healthy")
        assert healthy.problem is None

        write_lines(script, [("hang", 1)])
        hung = await pack.until("a reading without an answer", lambda s: s.gpu.power_watts is None)
        due = after(hung, 4)
        await pack.until(
            "samples go on", lambda s: s.counters and s.counters.sampled_at_seconds >= due
        )
        assert await pack.terminate() == 0
