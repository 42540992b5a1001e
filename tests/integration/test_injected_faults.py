"""Faults injected into a simulated GPU reach its engines, as they would under vLLM and CUDA."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from ports import free_port
from simulated_pack import (
    FAST_START,
    RunningEngine,
    launched,
    serving,
    simulated_device,
    socket_of,
    spec,
    until,
)
from slm_worker.engine.simulated.errors import EXIT_CODES, EXIT_FAILED
from slm_worker.gpu.simulated import SimulatedDevice
from slm_worker.gpu.simulated.client import SOCKET_VARIABLE, DeviceRefusedError
from slm_worker.gpu.simulated.faults import FaultKind, Injection
from slm_worker.gpu.simulated.inject import inject

TOKENS = "vllm:generation_tokens_total"
PREEMPTIONS = "vllm:num_preemptions_total"


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[SimulatedDevice]:
    async with simulated_device(tmp_path) as device:
        yield device


@pytest.fixture
async def pair(
    device: SimulatedDevice, tmp_path: Path
) -> AsyncIterator[tuple[RunningEngine, RunningEngine]]:
    """Two engines, whose requests may wait while they sleep or hang."""
    async with AsyncExitStack() as stack:
        first, second = [
            await stack.enter_async_context(
                launched(
                    device.engine_env(), tmp_path, spec(free_port(), replicas=2, sleep_mode=True)
                )
            )
            for _ in range(2)
        ]
        await until(first.healthy)
        await until(second.healthy)
        yield first, second


async def cause(device: SimulatedDevice, kind: FaultKind, **fields: float) -> list[int]:
    return await inject(socket_of(device), Injection.model_validate({"kind": kind, **fields}))


async def ended_with(engine: RunningEngine, code: int) -> tuple[str, str]:
    assert await engine.exit_code() == code
    return engine.explanation()


async def test_a_crash_takes_one_engine_and_its_memory(
    device: SimulatedDevice, pair: tuple[RunningEngine, RunningEngine]
) -> None:
    victim, other = pair
    ended = await cause(device, FaultKind.CRASH, pid=victim.process.pid)

    assert ended == [victim.process.pid]
    assert (await ended_with(victim, -signal.SIGSEGV))[0] == "EngineExited"
    assert (await device.read()).process_memory_bytes is not None
    assert (await other.post(max_tokens=2))[0] == 200

    async def only_the_other_holds_memory() -> bool:
        memory = (await device.read()).process_memory_bytes
        return memory is not None and list(memory) == [other.process.pid]

    await until(only_the_other_holds_memory)


async def test_memory_that_runs_out_ends_the_engine_in_the_words_of_vllm(
    device: SimulatedDevice, pair: tuple[RunningEngine, RunningEngine]
) -> None:
    await cause(device, FaultKind.OUT_OF_MEMORY, pid=pair[0].process.pid)

    assert (await ended_with(pair[0], EXIT_FAILED))[0] == "OutOfMemory"
    assert "EngineDeadError" in pair[0].log.read_text()
    assert await pair[1].healthy()


async def test_a_hung_engine_is_healthy_writes_nothing_and_goes_on_when_healed(
    device: SimulatedDevice, pair: tuple[RunningEngine, RunningEngine]
) -> None:
    hung, other = pair
    await cause(device, FaultKind.HANG, pid=hung.process.pid)
    request = asyncio.create_task(hung.post(max_tokens=3))
    await until(partial(hung.metric_is, "vllm:num_requests_running", 1))
    assert (await other.post(max_tokens=50))[0] == 200, "longer than the hung one would need"
    assert await hung.healthy()
    assert await hung.metric_is(TOKENS, 0)

    await cause(device, FaultKind.HEAL)
    assert (await request)[1]["usage"]["completion_tokens"] == 3


async def test_a_preemption_storm_preempts_and_loses_nothing(
    device: SimulatedDevice, pair: tuple[RunningEngine, RunningEngine]
) -> None:
    engine = pair[0]
    # None of them can end before the storm.
    await cause(device, FaultKind.HANG, pid=engine.process.pid)
    requests = [
        asyncio.create_task(engine.post(prompt=[1] * 200, max_tokens=100)) for _ in range(8)
    ]
    await until(partial(engine.metric_is, "vllm:num_requests_running", 8))
    await cause(device, FaultKind.PREEMPTION_STORM, kv_share=0.005, pid=engine.process.pid)
    await cause(device, FaultKind.HANG, pid=engine.process.pid, seconds=0.001)

    answers = await asyncio.gather(*requests)
    assert [answer["usage"]["completion_tokens"] for _, answer in answers] == [100] * 8
    assert (await engine.metrics())[PREEMPTIONS] > 0


async def test_an_mps_fault_ends_every_engine_until_the_device_recovers(
    device: SimulatedDevice, pair: tuple[RunningEngine, RunningEngine], tmp_path: Path
) -> None:
    culprit, bystander = pair
    os.kill(bystander.process.pid, signal.SIGSTOP)  # it will be there for a while
    await cause(device, FaultKind.MPS_FAULT, pid=culprit.process.pid)
    assert (await ended_with(culprit, EXIT_FAILED))[0] == "DeviceFault"
    await device.read()
    assert (device.mps.state, device.mps.faults) == ("Faulted", 1)
    assert device.mps.suspect_pids == (culprit.process.pid,)
    assert "fatal fault" in device.mps.message
    early = spec(free_port(), replicas=4)
    async with launched(device.engine_env(), tmp_path, early) as refused:
        assert (await ended_with(refused, EXIT_FAILED))[0] == "MpsNotReady"

    os.kill(bystander.process.pid, signal.SIGCONT)
    assert (await ended_with(bystander, EXIT_FAILED))[0] == "MpsFault"

    async def recovered() -> bool:
        await device.recover()
        return device.mps.state == "NotNeeded"

    await until(recovered)
    async with serving(device, tmp_path) as engine:
        assert (await engine.post(max_tokens=2))[0] == 200


async def test_a_lost_gpu_ends_every_engine_and_says_so(
    device: SimulatedDevice, pair: tuple[RunningEngine, RunningEngine], tmp_path: Path
) -> None:
    await cause(device, FaultKind.GPU_LOST)
    for engine in pair:
        assert (await ended_with(engine, EXIT_FAILED))[0] == "DeviceUnavailable"
    reading = await device.read()
    assert (reading.health.state, reading.energy_millijoules, reading.power_watts) == (
        "Lost",
        None,
        None,
    )
    async with launched(device.engine_env(), tmp_path) as refused:
        assert (await ended_with(refused, EXIT_FAILED))[0] == "DeviceUnavailable"

    await cause(device, FaultKind.HEAL)
    assert (await device.read()).health.state == "Healthy"


async def test_starts_can_be_slow_or_find_no_memory(
    device: SimulatedDevice, tmp_path: Path
) -> None:
    await cause(device, FaultKind.START_OUT_OF_MEMORY)
    async with launched(device.engine_env(), tmp_path) as refused:
        reason, message = await ended_with(refused, EXIT_CODES["OutOfMemory"])
    assert (reason, "SIMULATED fault" in message) == ("OutOfMemory", True)

    await cause(device, FaultKind.SLOW_START, seconds=3600)
    async with launched(device.engine_env(), tmp_path) as slow:
        await until(lambda: "loading" in slow.log.read_text())
        assert not await slow.healthy()
        await cause(device, FaultKind.CRASH)
        assert (await ended_with(slow, -signal.SIGSEGV))[0] == "EngineExited"


async def test_faults_are_injected_from_a_shell_too(
    device: SimulatedDevice, tmp_path: Path
) -> None:
    async def shell(*arguments: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "slm_worker.gpu.simulated.inject", *arguments),
            env={**os.environ, SOCKET_VARIABLE: str(socket_of(device))},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        return process.returncode, said.decode()

    async with launched(device.engine_env(), tmp_path, args=FAST_START) as engine:
        await until(engine.healthy)
        assert await shell("Crash") == (0, f"ended: {engine.process.pid}\n")
        await engine.exit_code()
    code, said = await shell("Crash", "--pid", "1")
    assert (code, "pid 1 is no engine on this GPU" in said) == (1, True)
    code, said = await shell("Crash", "--seconds", "1")
    assert (code, "seconds has no meaning with Crash" in said) == (2, True)


async def test_a_fault_for_nobody_is_refused(device: SimulatedDevice) -> None:
    with pytest.raises(DeviceRefusedError, match="pid 1 is no engine"):
        await cause(device, FaultKind.HANG, pid=1)


async def test_an_engine_sleeps_gives_its_memory_back_and_wakes(
    device: SimulatedDevice, pair: tuple[RunningEngine, RunningEngine]
) -> None:
    engine = pair[0]
    awake = (await device.read()).memory_used_bytes or 0
    running = asyncio.create_task(engine.post(max_tokens=2000))
    await until(partial(engine.metric_is, "vllm:num_requests_running", 1))

    assert await engine.post("/sleep?level=1") == (200, {"status": "sleeping", "level": 1})
    _, answer = await running
    assert answer["choices"][0]["finish_reason"] == "abort"
    assert await engine.get("/is_sleeping") == '{"is_sleeping": true}'
    assert await engine.healthy()
    assert awake - ((await device.read()).memory_used_bytes or 0) > 20 * 2**30
    waiting = asyncio.create_task(engine.post(max_tokens=3))
    await until(partial(engine.metric_is, "vllm:num_requests_waiting", 1))

    assert await engine.post("/wake_up") == (200, {"status": "awake", "tags": None})
    assert (await waiting)[1]["usage"]["completion_tokens"] == 3
    assert (await device.read()).memory_used_bytes == awake


async def test_an_engine_whose_memory_was_taken_stays_asleep(
    device: SimulatedDevice, pair: tuple[RunningEngine, RunningEngine], tmp_path: Path
) -> None:
    engine = pair[0]
    await engine.post("/sleep?level=1")
    async with serving(device, tmp_path, spec(free_port(), replicas=3)):
        status, refusal = await engine.post("/wake_up")
        assert (status, "out of memory" in refusal["error"]["message"]) == (500, True)
        assert await engine.get("/is_sleeping") == '{"is_sleeping": true}'


async def test_without_sleep_mode_there_is_no_sleep(
    device: SimulatedDevice, tmp_path: Path
) -> None:
    async with serving(device, tmp_path) as engine:
        assert (await engine.post("/sleep?level=1"))[0] == 404
