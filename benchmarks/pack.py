"""A pack without Kubernetes: the real agent as a process, with HAProxy and its engines."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from slm_dev.controlplane.process import GuardedProcess
from slm_dev.local_node.addresses import AddressPool
from slm_dev.vllm_cpu.install import ensure_environment
from slm_dev.vllm_cpu.model import ensure_model
from slm_operator.cluster.agents import AgentError, Agents
from slm_worker.wire import (
    ADDRESS_VARIABLE,
    CONFIG_VARIABLE,
    ROUTER_PORT,
    TOKEN_VARIABLE,
    EngineConfig,
    GpuConfig,
    Layout,
    ModelRef,
    PackConfig,
    PackState,
    Plan,
)

MODEL_NAME = "slm"
POLL_SECONDS = 0.02
TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True)
class Kind:
    """What a pack runs, and with which environment besides this process's own."""

    config: PackConfig
    max_num_seqs: int
    environment: Mapping[str, str] = field(default_factory=dict)


def simulated() -> Kind:
    """The simulated engine with its simulated GPU; its weights load in one second."""
    config = PackConfig(
        model=ModelRef(uri="hf://facebook/opt-1.3b", name=MODEL_NAME),
        engine=EngineConfig(kind="Simulated"),
        gpu=GpuConfig(kind="Simulated"),
    )
    return Kind(config, max_num_seqs=8)


def vllm_on_cpu() -> Kind:
    """Real vLLM with SmolLM2-135M in float32 on the CPU, one thread a replica. Installs what is
    missing; raises SetupError where it cannot."""
    environment = ensure_environment(_say)
    model = ensure_model(_say)
    arguments = ("--dtype=float32", "--max-model-len=512", "--max-num-batched-tokens=512")
    config = PackConfig(
        model=ModelRef(uri=f"file://{model}", name=MODEL_NAME),
        engine=EngineConfig(kind="vLLM", args=arguments),
        gpu=GpuConfig(kind="CPU"),
    )
    path = os.pathsep.join([str(environment.vllm.parent), os.environ.get("PATH", os.defpath)])
    return Kind(config, max_num_seqs=8, environment={**environment.environment, "PATH": path})


class Pack:
    """A running pack. Made by `running`."""

    def __init__(
        self, kind: Kind, address: str, token: str, process: GuardedProcess, agents: Agents
    ) -> None:
        self.url = f"http://{address}:{ROUTER_PORT}"
        self._kind = kind
        self._address = address
        self._token = token
        self._process = process
        self._agents = agents
        self._generation = 0

    async def state(self) -> PackState:
        """Raises AgentError."""
        return await self._agents.state(self._address, self._token)

    async def plan(self, replicas: int, rotation: int) -> None:
        """Sends a plan; it is accepted when this returns. Raises AgentError."""
        self._generation += 1
        layout = Layout(replicas=replicas, max_num_seqs=self._kind.max_num_seqs)
        plan = Plan(generation=self._generation, layout=layout, rotation=rotation)
        await self._agents.put_plan(self._address, self._token, plan)

    async def until(
        self, condition: Callable[[PackState], bool], poll_seconds: float = POLL_SECONDS
    ) -> PackState:
        """Raises TimeoutError, and RuntimeError when the agent has ended."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while True:
                if self._process.exited():
                    raise RuntimeError(f"the agent ended; its log: {self._process.log_tail()}")
                state = await self.state()
                if condition(state):
                    return state
                await asyncio.sleep(poll_seconds)

    async def settle(self, replicas: int, rotation: int) -> PackState:
        """Walks to a plan until the pack is what it wants, and idle outside its rotation."""
        await self.plan(replicas, rotation)
        return await self.until(lambda state: state.settled and _idle_outside_rotation(state))

    async def until_answering(self) -> None:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not self._process.exited():
                try:
                    if (await self.state()).packing is not None:
                        return
                except AgentError:
                    pass
                await asyncio.sleep(POLL_SECONDS)
        raise RuntimeError(f"the agent ended; its log: {self._process.log_tail()}")


@asynccontextmanager
async def running(kind: Kind) -> AsyncIterator[Pack]:
    """The agent of a pack as a process, on a loopback address of its own."""
    addresses = AddressPool()
    address, token = addresses.claim(), secrets.token_hex(16)
    environment = {
        **os.environ,
        **kind.environment,
        CONFIG_VARIABLE: kind.config.model_dump_json(),
        TOKEN_VARIABLE: token,
        ADDRESS_VARIABLE: address,
    }
    with tempfile.TemporaryDirectory(prefix="slm-bench-") as name:
        folder = Path(name)
        command = [sys.executable, "-m", "slm_worker"]
        process = GuardedProcess(command, folder, folder / "agent.log", environment)
        try:
            async with aiohttp.ClientSession() as session:
                pack = Pack(kind, address, token, process, Agents(session))
                await pack.until_answering()
                yield pack
        except BaseException:
            print(process.log_tail(), file=sys.stderr)
            raise
        finally:
            await asyncio.to_thread(process.stop)
            addresses.release(address)


def in_rotation(state: PackState) -> int:
    """How many replicas the router sends requests to; each has answered a completion before."""
    return sum(replica.in_rotation for replica in state.replicas)


def _idle_outside_rotation(state: PackState) -> bool:
    return all(replica.in_rotation or not replica.running for replica in state.replicas)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
