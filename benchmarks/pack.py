"""A pack without Kubernetes: the real agent as a process, with HAProxy and its engines."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import aiohttp
import psutil

from slm_dev.controlplane.process import GuardedProcess
from slm_dev.local_node.addresses import AddressPool
from slm_dev.vllm_cpu.install import ensure_environment
from slm_dev.vllm_cpu.model import ensure_model
from slm_operator.cluster.agents import AgentError, Agents
from slm_operator.keys import Tokens
from slm_worker.routing.limits import max_in_flight
from slm_worker.wire import (
    ADDRESS_VARIABLE,
    CONFIG_VARIABLE,
    ROUTER_PORT,
    TOKEN_FILE_VARIABLE,
    EngineConfig,
    GpuConfig,
    Layout,
    ModelRef,
    PackConfig,
    PackState,
    Plan,
    Routing,
)

MODEL_NAME = "slm"
POLL_SECONDS = 0.02
TIMEOUT_SECONDS = 600.0
AGENT_ARGUMENTS = ("-m", "slm_worker")


@dataclass(frozen=True)
class Kind:
    """What a pack runs, and with which environment besides this process's own."""

    config: PackConfig
    max_num_seqs: int
    environment: Mapping[str, str] = field(default_factory=dict)
    through: tuple[str, ...] = ()
    """A command that starts the agent, whose own command is appended."""


def simulated(start_seconds: float = 1.0, max_num_seqs: int = 8) -> Kind:
    """The simulated engine with its simulated GPU; its weights load in so many seconds."""
    config = PackConfig(
        model=ModelRef(uri="hf://facebook/opt-1.3b", name=MODEL_NAME),
        engine=EngineConfig(kind="Simulated", args=("--start-seconds", str(start_seconds))),
        gpu=GpuConfig(kind="Simulated"),
    )
    return Kind(config, max_num_seqs)


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
    """A pack that can be started, killed and started again. Made by `running`."""

    def __init__(self, kind: Kind, address: str, folder: Path, agents: Agents) -> None:
        self.url = f"http://{address}:{ROUTER_PORT}"
        self.address = address
        self.tmp = folder / "tmp"
        """Where the agent and all that it starts keep their files."""
        self.tmp.mkdir(mode=0o700, exist_ok=True)
        self._kind = kind
        self._folder = folder
        self._token = secrets.token_hex(16)
        self._agents = agents
        self._generation = 0
        self._process: GuardedProcess | None = None

    def start(self) -> None:
        """Starts the agent, which knows no plan yet."""
        token = self._folder / "token"
        token.write_text(self._token)
        environment = {
            **os.environ,
            "TMPDIR": str(self.tmp),
            **self._kind.environment,
            CONFIG_VARIABLE: self._kind.config.model_dump_json(),
            TOKEN_FILE_VARIABLE: str(token),
            ADDRESS_VARIABLE: self.address,
        }
        command = [*self._kind.through, sys.executable, *AGENT_ARGUMENTS]
        log = self._folder / "agent.log"
        self._process = GuardedProcess(command, self._folder, log, environment)

    @property
    def model_name(self) -> str:
        """The name that clients send."""
        return self._kind.config.model.name

    @property
    def most_in_flight(self) -> int:
        """Requests that one replica has at the most."""
        return max_in_flight(self._kind.max_num_seqs)

    def gpu_socket(self) -> Path:
        """Where the simulated GPU listens. Raises RuntimeError before it does."""
        found = list(self.tmp.glob("slm-*/gpu/gpu.sock"))
        if len(found) != 1:
            raise RuntimeError(f"{len(found)} simulated GPUs listen below {self.tmp}")
        return found[0]

    def stop(self) -> None:
        """Ends the agent as a node does, and waits until it is gone."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """Ends the agent by SIGKILL; whatever it started is left to itself."""
        if self._process is not None:
            self._process.kill()

    def log_tail(self) -> str:
        return self._process.log_tail() if self._process else "it was never started"

    def agent(self) -> psutil.Process:
        """Raises RuntimeError where it does not run."""
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                ours = process.environ().get(ADDRESS_VARIABLE) == self.address
                if ours and tuple(process.cmdline()[1:]) == AGENT_ARGUMENTS:
                    return process
        raise RuntimeError(f"the agent on {self.address} does not run: {self.log_tail()}")

    async def state(self) -> PackState:
        """Raises AgentError."""
        return await self._agents.state(self.address, Tokens(self._token))

    async def plan(
        self,
        replicas: int,
        rotation: int,
        mode: Literal["Concentrate", "Spread"] = "Concentrate",
        standby: Literal["Awake", "Asleep"] = "Awake",
        max_num_seqs: int | None = None,
    ) -> None:
        """Sends a plan; it is accepted when this returns. Without ``max_num_seqs`` it is the
        kind's. Raises AgentError."""
        self._generation += 1
        plan = Plan(
            generation=self._generation,
            layout=Layout(replicas=replicas, max_num_seqs=max_num_seqs or self._kind.max_num_seqs),
            rotation=rotation,
            routing=Routing(mode=mode),
            standby=standby,
        )
        await self._agents.put_plan(self.address, Tokens(self._token), plan)

    async def until(
        self, condition: Callable[[PackState], bool], poll_seconds: float = POLL_SECONDS
    ) -> PackState:
        """Raises TimeoutError, and RuntimeError when the agent has ended."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while True:
                self._check_running()
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
            while True:
                self._check_running()
                with suppress(AgentError):
                    if (await self.state()).packing is not None:
                        return
                await asyncio.sleep(POLL_SECONDS)

    def _check_running(self) -> None:
        if self._process is None or self._process.exited():
            raise RuntimeError(f"the agent ended; its log: {self.log_tail()}")


@asynccontextmanager
async def running(kind: Kind) -> AsyncIterator[Pack]:
    """The agent of a pack as a process, on a loopback address of its own."""
    addresses = AddressPool()
    address = addresses.claim()
    with tempfile.TemporaryDirectory(prefix="slm-bench-") as name:
        async with aiohttp.ClientSession() as session:
            pack = Pack(kind, address, Path(name), Agents(session))
            try:
                pack.start()
                await pack.until_answering()
                yield pack
            except BaseException:
                print(pack.log_tail(), file=sys.stderr)
                raise
            finally:
                await asyncio.to_thread(pack.stop)
                addresses.release(address)


def in_rotation(state: PackState) -> int:
    """How many replicas the router sends requests to; each has answered a completion before."""
    return sum(replica.in_rotation for replica in state.replicas)


def _idle_outside_rotation(state: PackState) -> bool:
    return all(replica.in_rotation or not replica.running for replica in state.replicas)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
