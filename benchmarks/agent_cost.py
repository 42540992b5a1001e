"""What the agent itself costs, idle and at 300 requests/s through two replicas.

The agent is the real process with HAProxy; its engines are stand-ins that cost next to nothing and
write the metrics of a real vLLM. The agent sees no request: it asks engines and router how they
fare. Run with ``python -m benchmarks.agent_cost``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.pack import Kind, Pack, running
from benchmarks.report import write
from benchmarks.tiny_http import paced
from slm_worker.wire import EngineConfig, GpuConfig, ModelRef, PackConfig

REQUESTS_PER_SECOND = 300
WINDOW_SECONDS = 30.0
CORE_SHARE_GOAL = 0.03
REPLICAS = 2
CONNECTIONS = 64
MAX_NUM_SEQS = 16
"""Twice what is in flight at this rate fits into the two batches."""
TINY_MODEL = {
    "model_type": "opt",
    "architectures": ["OPTForCausalLM"],
    "torch_dtype": "float16",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "ffn_dim": 256,
    "num_attention_heads": 4,
    "vocab_size": 1000,
    "max_position_embeddings": 2048,
}


@dataclass(frozen=True)
class Cost:
    """CPU seconds per second, by process, and the rate that was served meanwhile."""

    agent_cores: float
    router_cores: float
    requests_per_second: float


def stand_in(folder: Path) -> Kind:
    """A pack whose ``vllm`` is ours. Writes program and model into ``folder``."""
    program = folder / "vllm"
    engine = Path(__file__).with_name("tiny_engine.py")
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {engine} "$@"\n')
    program.chmod(0o700)
    (folder / "config.json").write_text(json.dumps(TINY_MODEL))
    config = PackConfig(
        model=ModelRef(uri=f"file://{folder}", name="slm"),
        engine=EngineConfig(kind="vLLM"),
        gpu=GpuConfig(kind="CPU"),
    )
    path = os.pathsep.join([str(folder), os.environ.get("PATH", os.defpath)])
    return Kind(config, MAX_NUM_SEQS, environment={"PATH": path})


async def cost(pack: Pack, requests_per_second: float, seconds: float) -> Cost:
    agent = pack.agent()
    router = next(child for child in agent.children() if child.name() == "haproxy")
    before, began = (_cpu_seconds(agent), _cpu_seconds(router)), time.monotonic()
    served = await paced(pack.address, 8000, CONNECTIONS, requests_per_second, seconds)
    wall_seconds = time.monotonic() - began
    return Cost(
        agent_cores=(_cpu_seconds(agent) - before[0]) / wall_seconds,
        router_cores=(_cpu_seconds(router) - before[1]) / wall_seconds,
        requests_per_second=served / wall_seconds,
    )


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


async def measure() -> dict[str, float | int | bool]:
    with tempfile.TemporaryDirectory() as name:
        async with running(stand_in(Path(name))) as pack:
            await pack.settle(REPLICAS, rotation=REPLICAS)
            await cost(pack, REQUESTS_PER_SECOND, 5.0)  # warms
            idle = await cost(pack, 0, WINDOW_SECONDS)
            busy = await cost(pack, REQUESTS_PER_SECOND, WINDOW_SECONDS)
    return {
        "agent_replicas": REPLICAS,
        "agent_requests_per_second": busy.requests_per_second,
        "agent_window_seconds": WINDOW_SECONDS,
        "agent_idle_cores": idle.agent_cores,
        "agent_busy_cores": busy.agent_cores,
        "agent_cores_goal": CORE_SHARE_GOAL,
        "agent_cores_goal_met": busy.agent_cores <= CORE_SHARE_GOAL,
        "router_busy_cores": busy.router_cores,
    }


def main() -> None:
    write("agent_cost", asyncio.run(measure()), command="python -m benchmarks.agent_cost")


if __name__ == "__main__":
    main()
