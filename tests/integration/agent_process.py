"""A real agent process for tests, on a loopback address of its own, and clients of its router."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import aiohttp
import psutil

from slm_worker.wire import AGENT_PORT, ROUTER_PORT, Layout, Load, PackState, Plan, ReplicaState

TOKEN = "0123456789abcdef"
SIMULATED = {
    "model": {"uri": "hf://facebook/opt-1.3b", "name": "opt"},
    "engine": {"kind": "Simulated"},
    "gpu": {"kind": "Simulated"},
}
WAIT_SECONDS = 90.0
POLL_SECONDS = 0.2


def loopback_address() -> str:
    """One that no other pack on this host has."""
    return f"127.{random.randint(1, 254)}.{random.randint(1, 254)}.{random.randint(2, 254)}"


class AgentProcess:
    def __init__(
        self,
        process: asyncio.subprocess.Process,
        address: str,
        log: Path,
        tmp: Path,
        token: Path,
    ) -> None:
        self.process = process
        self.address = address
        self.tmp = tmp
        self.token = token
        """The file that holds the token."""
        self._log = log
        self._http = aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"})

    @property
    def router_url(self) -> str:
        return f"http://{self.address}:{ROUTER_PORT}"

    @property
    def url(self) -> str:
        return f"http://{self.address}:{AGENT_PORT}"

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    async def state(self) -> PackState:
        async with self._http.get(f"{self.url}/v1/pack") as response:
            assert response.status == 200, await response.text()
            return PackState.model_validate_json(await response.text())

    async def ready(self) -> bool:
        async with self._http.get(f"{self.url}/readyz") as response:
            return response.status == 200

    async def plan(self, plan: Plan) -> tuple[int, dict[str, Any]]:
        async with self._http.put(
            f"{self.url}/v1/pack/plan", data=plan.model_dump_json()
        ) as response:
            return response.status, json.loads(await response.text())

    async def until(
        self, what: str, condition: Callable[[PackState], object], seconds: float = WAIT_SECONDS
    ) -> PackState:
        """The first state that meets ``condition``; refused connections are waited out."""
        deadline = time.monotonic() + seconds
        state = None
        while time.monotonic() < deadline:
            assert self.process.returncode is None, f"the agent ended: {self._log.read_text()}"
            try:
                state = await self.state()
            except aiohttp.ClientConnectionError:
                state = None
            if state is not None and condition(state):
                return state
            await asyncio.sleep(POLL_SECONDS)
        raise AssertionError(f"not within {seconds} s: {what}; last {state}\n{self.tail()}")

    async def settle(self, plan: Plan) -> PackState:
        status, answer = await self.plan(plan)
        assert status == 200, answer
        return await self.until(
            f"settled at {plan}",
            lambda state: state.settled and state.plan == plan,
        )

    def tail(self) -> str:
        return "\n".join(self._log.read_text().splitlines()[-30:])

    async def complete(self, tokens: int = 4) -> int:
        """One completion through the router; the HTTP status."""
        body = {"model": "opt", "prompt": "Hello", "max_tokens": tokens}
        async with self._http.post(f"{self.router_url}/v1/completions", json=body) as response:
            await response.read()
            return response.status

    async def terminate(self) -> int:
        if self.process.returncode is None:
            self.process.terminate()
        async with asyncio.timeout(WAIT_SECONDS):
            return await self.process.wait()

    async def close(self) -> None:
        """Kills the agent, whose children end with it: its own end takes seconds."""
        await self._http.close()
        if self.process.returncode is not None:
            return
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        await self.process.wait()
        _, left = await asyncio.to_thread(psutil.wait_procs, children, WAIT_SECONDS)
        for process in left:
            process.kill()


def plan(
    generation: int,
    replicas: int,
    rotation: int | None = None,
    load: Load | None = None,
    max_num_seqs: int = 256,
    standby: Literal["Awake", "Asleep"] = "Awake",
) -> Plan:
    return Plan(
        generation=generation,
        layout=Layout(replicas=replicas, max_num_seqs=max_num_seqs),
        rotation=rotation or replicas,
        load=load,
        standby=standby,
    )


@asynccontextmanager
async def agent(
    tmp_path: Path,
    config: dict[str, Any] = SIMULATED,
    env: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[AgentProcess]:
    """``env`` replaces what the agent would inherit or get."""
    address = env.get("POD_IP") or loopback_address()
    log = tmp_path / f"agent-{address}.log"
    # Sockets need a short path, and pytest's own grows with the test's name.
    tmp = Path(tempfile.mkdtemp())
    token = tmp_path / f"token-{address}"
    token.write_text(TOKEN)
    environment = os.environ | {
        "SLM_PACK_CONFIG": json.dumps(config),
        "SLM_AGENT_TOKEN_FILE": str(token),
        "POD_IP": address,
        "TMPDIR": str(tmp),
        **env,
    }
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "slm_worker"), env=environment, stdout=output, stderr=output
        )
    running = AgentProcess(process, address, log, tmp, token)
    try:
        yield running
    finally:
        await running.close()
        shutil.rmtree(tmp)


class Users:
    """Clients that send one short completion after another, and count the answers by status."""

    def __init__(self, agent: AgentProcess, clients: int = 4, tokens: int = 16) -> None:
        self._agent = agent
        self.answers: dict[int | str, int] = {}
        self._tasks = [asyncio.create_task(self._ask(agent, tokens)) for _ in range(clients)]

    async def until_answered(self, more: int) -> None:
        """Until ``more`` requests have been answered from now on."""
        enough = sum(self.answers.values()) + more
        await self._agent.until("answers", lambda _: sum(self.answers.values()) >= enough)

    async def _ask(self, agent: AgentProcess, tokens: int) -> None:
        while True:
            try:
                answer: int | str = await agent.complete(tokens)
            except aiohttp.ClientError as error:
                answer = repr(error)
            self.answers[answer] = self.answers.get(answer, 0) + 1

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)


def replica(state: PackState, index: int) -> ReplicaState:
    return next(one for one in state.replicas if one.index == index)
