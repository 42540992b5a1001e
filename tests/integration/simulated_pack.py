"""Engines on a simulated GPU as processes, and a small client, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from prometheus_client.parser import text_string_to_metric_families

from ports import free_port
from slm_worker.engine.base import EngineCommand, ReplicaSpec
from slm_worker.engine.simulated import SimulatedEngine
from slm_worker.gpu.simulated import SimulatedDevice
from slm_worker.gpu.simulated.client import SOCKET_VARIABLE
from slm_worker.gpu.simulated.pace import DEFAULT_GPU
from slm_worker.wire import ModelRef

MODEL = ModelRef(uri="hf://facebook/opt-1.3b", name="opt")
WAIT_SECONDS = 60.0
FAST_START = ("--start-seconds", "0")


async def until(condition: Callable[[], Any], seconds: float = WAIT_SECONDS) -> None:
    """Waits for a condition; it may be a plain or an async function."""
    async with asyncio.timeout(seconds):
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return
            await asyncio.sleep(0.02)


def socket_of(device: SimulatedDevice) -> Path:
    return Path(device.engine_env()[SOCKET_VARIABLE])


def daemon_of(device: SimulatedDevice) -> psutil.Process:
    socket = str(socket_of(device))
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # another's, that has just ended
            if socket in " ".join(child.cmdline()):
                return child
    raise AssertionError(f"no daemon at {socket}")


def spec(
    port: int, *, max_num_seqs: int = 256, replicas: int = 1, sleep_mode: bool = False
) -> ReplicaSpec:
    """One of ``replicas`` equal engines that share 90 % of the memory."""
    return ReplicaSpec(0, "127.0.0.1", port, max_num_seqs, None, 0.9 / replicas, sleep_mode)


@dataclass
class RunningEngine:
    process: subprocess.Popen[bytes]
    port: int
    log: Path
    http: aiohttp.ClientSession
    engine: SimulatedEngine = field(default_factory=lambda: SimulatedEngine(MODEL, FAST_START))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def healthy(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            async with self.http.get(f"{self.url}/health") as response:
                return response.status == 200
        except aiohttp.ClientConnectionError:
            return False

    async def post(self, path: str = "/v1/completions", **body: Any) -> tuple[int, Any]:
        """Status and parsed body; a completion of 3 prompt tokens unless told otherwise."""
        if path == "/v1/completions":
            body = {"model": "opt", "prompt": [1, 2, 3], "ignore_eos": True, **body}
        async with self.http.post(self.url + path, json=body) as response:
            return response.status, json.loads(await response.read())

    async def get(self, path: str) -> str:
        async with self.http.get(self.url + path) as response:
            assert response.status == 200
            return await response.text()

    async def metrics(self) -> dict[str, float]:
        """Samples by name; those of one name with several labels are summed."""
        samples: dict[str, float] = {}
        for family in text_string_to_metric_families(await self.get("/metrics")):
            for sample in family.samples:
                samples[sample.name] = samples.get(sample.name, 0.0) + sample.value
        return samples

    async def metric_is(self, name: str, value: float) -> bool:
        return (await self.metrics())[name] == value

    async def exit_code(self, seconds: float = WAIT_SECONDS) -> int:
        await until(lambda: self.process.poll() is not None, seconds)
        return int(self.process.returncode)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def explanation(self) -> tuple[str, str]:
        return self.engine.explain_exit(self.process.returncode, self.log.read_text())


def _start(
    command: EngineCommand, device_env: dict[str, str], log: Path
) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **command.env, **device_env}
    with log.open("wb") as output:
        return subprocess.Popen(command.argv, env=environment, stderr=output)


@contextlib.asynccontextmanager
async def simulated_device(
    tmp_path: Path, *, gpu: str = DEFAULT_GPU, memory_bytes: int | None = None
) -> AsyncIterator[SimulatedDevice]:
    device = await SimulatedDevice.start(tmp_path / "run", gpu=gpu, memory_bytes=memory_bytes)
    try:
        yield device
    finally:
        await device.close()


@contextlib.asynccontextmanager
async def standalone_gpu(directory: Path, *arguments: str) -> AsyncIterator[tuple[Path, Path]]:
    """Socket and state file of a simulated GPU that no device has started."""
    socket, state = directory / "gpu.sock", directory / "gpu-state"
    daemon = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "slm_worker.gpu.simulated.daemon", *arguments),
        *("--socket", str(socket), "--state-file", str(state)),
        stdin=asyncio.subprocess.PIPE,
    )
    try:
        await until(lambda: daemon.returncode is not None or state.exists())
        assert daemon.returncode is None, "the simulated GPU ended"
        yield socket, state
    finally:
        if daemon.returncode is None:
            daemon.kill()
        await daemon.wait()


@contextlib.asynccontextmanager
async def launched(
    device_env: dict[str, str],
    tmp_path: Path,
    replica: ReplicaSpec | None = None,
    *,
    model: ModelRef = MODEL,
    args: tuple[str, ...] = FAST_START,
) -> AsyncIterator[RunningEngine]:
    """A started engine process that may not be ready, or may have failed."""
    replica = replica or spec(free_port())
    engine = SimulatedEngine(model, args)
    command = engine.command(replica)
    log = tmp_path / f"engine-{replica.port}.log"
    process = _start(command, device_env, log)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        try:
            yield RunningEngine(process, replica.port, log, http, engine)
        finally:
            process.kill()
            process.wait()


@contextlib.asynccontextmanager
async def serving(
    device: SimulatedDevice, tmp_path: Path, replica: ReplicaSpec | None = None
) -> AsyncIterator[RunningEngine]:
    """An engine that answers."""
    async with launched(device.engine_env(), tmp_path, replica) as engine:
        await until(engine.healthy)
        yield engine


@contextlib.asynccontextmanager
async def closed_loop(
    engine: RunningEngine, clients: int, *, prompt_tokens: int, output_tokens: int
) -> AsyncIterator[None]:
    """``clients`` that each send a request as soon as the last one is answered."""

    async def client(number: int) -> None:
        # Unequal lengths, lest all sequences end in the same step.
        length = output_tokens // 2 + number * output_tokens // clients
        while True:
            status, _ = await engine.post(prompt=[1] * prompt_tokens, max_tokens=length)
            assert status == 200

    tasks = [asyncio.create_task(client(number)) for number in range(clients)]
    try:
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
