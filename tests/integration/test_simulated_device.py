"""The simulated GPU's daemon as a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest

from simulated_pack import daemon_of, simulated_device, socket_of, standalone_gpu, until
from slm_worker.gpu.base import DeviceError
from slm_worker.gpu.simulated import SimulatedDevice
from slm_worker.gpu.simulated.client import DaemonConnection, DeviceRefusedError
from slm_worker.model_files import PUBLISHED_CONFIGS

IDLE_WATTS = 132.0
OPT = PUBLISHED_CONFIGS["facebook/opt-1.3b"]


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_the_device_names_itself_simulated_and_keeps_its_socket_private(
    tmp_path: Path,
) -> None:
    async with simulated_device(tmp_path, memory_bytes=1000) as device:
        assert device.identity.name == "Simulated H100 SXM 64 GB (MareNostrum 5)"
        assert device.identity.simulated
        assert device.identity.memory_bytes == 1000
        assert permissions(socket_of(device)) == 0o600
        assert permissions(tmp_path / "run") == 0o700


async def test_energy_grows_with_power_and_time(tmp_path: Path) -> None:
    async with simulated_device(tmp_path) as device:
        first = await device.read()

        async def has_grown() -> bool:
            later = await device.read()
            return (later.energy_millijoules or 0) > (first.energy_millijoules or 0)

        assert first.power_watts == IDLE_WATTS
        await until(has_grown)


async def test_a_closed_connection_frees_its_memory_and_its_power(tmp_path: Path) -> None:
    async with simulated_device(tmp_path, memory_bytes=1000) as device:
        engine = await DaemonConnection.open(socket_of(device))
        await engine.request("attach", memory_bytes=600, model=OPT)
        await engine.request("step", running=256)
        other = await DaemonConnection.open(socket_of(device))
        with pytest.raises(DeviceRefusedError, match="400 of 1,000 are free") as refusal:
            await other.request("attach", memory_bytes=600, model=OPT)
        assert refusal.value.reason == "OutOfMemory"

        async def draws(watts: float) -> bool:
            reading = await device.read()
            return reading.power_watts == pytest.approx(watts, rel=0.05)

        await until(partial(draws, 335.1))  # by the next sample
        reading = await device.read()
        assert (reading.utilization_percent or 0) > 90, "busy since before the last sample"
        assert reading.memory_used_bytes == 600
        assert reading.process_memory_bytes == {os.getpid(): 600}
        assert (reading.energy_source, reading.health.state) == ("Counter", "Healthy")

        engine.close()

        async def is_free() -> bool:
            return bool((await other.request("read"))["memory_used_bytes"] == 0)

        await until(is_free)
        await until(partial(draws, IDLE_WATTS))
        await other.request("attach", memory_bytes=600, model=OPT)
        other.close()


async def test_a_released_process_holds_nothing(tmp_path: Path) -> None:
    async with simulated_device(tmp_path, memory_bytes=1000) as device:
        engine = await DaemonConnection.open(socket_of(device))
        await engine.request("attach", memory_bytes=600, model=OPT)

        await device.release([os.getpid()])

        assert (await device.read()).memory_used_bytes == 0
        engine.close()


async def test_the_state_file_follows_the_gpu(tmp_path: Path) -> None:
    async with standalone_gpu(tmp_path, "--memory-bytes", "1000") as (socket, state):
        assert "memory_total_bytes 1000\nmemory_used_bytes 0\n" in state.read_text()
        engine = await DaemonConnection.open(socket)
        await engine.request("attach", memory_bytes=600, model=OPT)
        await until(lambda: f"process {os.getpid()} 600\n" in state.read_text())
        before = state.read_text()
        await until(lambda: state.read_text() != before)
        engine.close()


async def test_a_gpu_that_the_catalogue_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DeviceError, match=r"SLM_SIMULATED_GPU 'abacus': use one of .*h100-sxm-64gb"
    ):
        await SimulatedDevice.start(tmp_path / "run", gpu="abacus")


async def test_a_state_file_that_cannot_be_written_ends_the_daemon_with_its_name(
    tmp_path: Path,
) -> None:
    state = tmp_path / "missing" / "state"
    daemon = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "slm_worker.gpu.simulated.daemon"),
        *("--socket", str(tmp_path / "gpu.sock"), "--state-file", str(state)),
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await daemon.communicate()

    assert daemon.returncode == 1
    assert str(state) in said.decode()


async def test_an_overlong_line_ends_the_connection_only(tmp_path: Path) -> None:
    async with simulated_device(tmp_path) as device:
        reader, writer = await asyncio.open_unix_connection(socket_of(device))
        writer.write(b"x" * 100_000 + b"\n")

        assert b"line too long" in await reader.readline()
        writer.close()
        assert (await device.read()).power_watts == IDLE_WATTS


async def test_reading_a_dead_daemon_says_what_to_do(tmp_path: Path) -> None:
    async with simulated_device(tmp_path) as device:
        daemon = daemon_of(device)
        daemon.kill()
        await until(lambda: not daemon.is_running() or daemon.status() == psutil.STATUS_ZOMBIE)

        with pytest.raises(DeviceError, match="restart the pack"):
            await device.read()


async def test_closing_the_device_ends_the_daemon_and_removes_its_socket(tmp_path: Path) -> None:
    async with simulated_device(tmp_path) as device:
        daemon = daemon_of(device)
    assert not daemon.is_running()
    assert not socket_of(device).exists()


async def test_a_device_starts_over_the_socket_of_a_killed_one(tmp_path: Path) -> None:
    async with simulated_device(tmp_path) as first:
        daemon_of(first).send_signal(signal.SIGKILL)
        async with simulated_device(tmp_path) as second:
            assert (await second.read()).power_watts == IDLE_WATTS


async def test_the_daemon_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = (
        "import asyncio, pathlib, sys, time\n"
        "from slm_worker.gpu.simulated import SimulatedDevice\n"
        "asyncio.run(SimulatedDevice.start(pathlib.Path(sys.argv[1])))\n"
        "print('started', flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, str(tmp_path)), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    try:
        await parent.stdout.readline()
        (daemon,) = psutil.Process(parent.pid).children()
    finally:
        parent.kill()
        await parent.wait()

    await until(lambda: not daemon.is_running() or daemon.status() == psutil.STATUS_ZOMBIE)


async def test_a_run_directory_too_deep_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="too long for a unix socket"):
        await SimulatedDevice.start(tmp_path / ("x" * 100))


async def test_a_daemon_that_cannot_start_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="exited with 2 at its start"):
        await SimulatedDevice.start(tmp_path / "run", memory_bytes=-1)
