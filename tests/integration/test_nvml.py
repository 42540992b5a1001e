"""NvmlDevice through the real pynvml, over a driver library of our own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

FIXTURES = Path(__file__).parent.parent / "fixtures"
HEALTHY: dict[str, object] = {
    "count": 1,
    "name": "Test GPU 80GB",
    "memory_bytes": 85_899_345_920,
    "energy_millijoules": 123_456_789_012,
    "power_milliwatts": 335_500,
}
NOT_SUPPORTED, NO_PERMISSION, GPU_IS_LOST = 3, 4, 15


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the compiled libnvidia-ml.so.1."""
    directory = tmp_path_factory.mktemp("nvml")
    target = directory / "libnvidia-ml.so.1"
    source = FIXTURES / "nvml" / "nvml.c"
    command = ["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(target), str(source)]
    subprocess.run(command, check=True)
    return directory


class Probe:
    """The probe process and the values that its driver answers from."""

    def __init__(self, process: asyncio.subprocess.Process, values: Path) -> None:
        self.process = process
        self._values = values

    def set(self, **changes: object) -> None:
        lines = [f"{key} {value}\n" for key, value in {**HEALTHY, **changes}.items()]
        fresh = self._values.with_suffix(".new")
        fresh.write_text("".join(lines))
        fresh.replace(self._values)

    async def open(self) -> dict[str, Any]:
        """The opened device; fails the test where it cannot be opened."""
        answer = await self.do("open")
        assert "error" not in answer, answer
        return answer

    async def do(self, command: str) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{command}\n".encode())
        await self.process.stdin.drain()
        answer: dict[str, Any] = json.loads(await self.process.stdout.readline())
        return answer


StartProbe = Callable[..., AbstractAsyncContextManager[Probe]]


@pytest.fixture
def start_probe(tmp_path: Path, library: Path) -> StartProbe:
    @asynccontextmanager
    async def start(
        libraries: Path = library, timeout_seconds: float = 60, **env: str
    ) -> AsyncIterator[Probe]:
        values = tmp_path / "values"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(FIXTURES / "nvml" / "probe.py"),
            str(tmp_path / "run"),
            str(timeout_seconds),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={
                "PATH": os.defpath,
                "LD_LIBRARY_PATH": str(libraries),
                "SLM_TEST_NVML": str(values),
                **env,
            },
        )
        probe = Probe(process, values)
        probe.set()
        try:
            yield probe
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    return start


async def test_reads_identity_energy_and_power(start_probe: StartProbe) -> None:
    async with start_probe() as probe:
        opened = await probe.open()
        assert opened["identity"] == {
            "kind": "NVIDIA",
            "name": "Test GPU 80GB",
            "memory_bytes": 85_899_345_920,
            "simulated": False,
        }
        assert await probe.do("read") == {
            "energy_millijoules": 123_456_789_012,
            "power_watts": 335.5,
        }


async def test_without_energy_counter_energy_is_unknown_and_power_is_read(
    start_probe: StartProbe,
) -> None:
    async with start_probe() as probe:
        probe.set(energy_error=NOT_SUPPORTED)
        await probe.open()
        assert await probe.do("read") == {"energy_millijoules": None, "power_watts": 335.5}


async def test_a_lost_gpu_is_an_error_with_a_remedy(start_probe: StartProbe) -> None:
    async with start_probe() as probe:
        await probe.open()
        probe.set(energy_error=GPU_IS_LOST, power_error=GPU_IS_LOST)
        error = (await probe.do("read"))["error"]
        assert "GPU is lost" in error
        assert "restart the node" in error


async def test_a_gpu_without_permission_names_the_device_files(start_probe: StartProbe) -> None:
    async with start_probe() as probe:
        probe.set(handle_error=NO_PERMISSION)
        assert "/dev/nvidia*" in (await probe.do("open"))["error"]


async def test_a_driver_library_that_cannot_be_loaded_is_an_error_with_a_remedy(
    start_probe: StartProbe, tmp_path: Path
) -> None:
    (tmp_path / "libnvidia-ml.so.1").touch()
    async with start_probe(libraries=tmp_path) as probe:
        assert "install the NVIDIA driver" in (await probe.do("open"))["error"]


async def test_several_gpus_are_refused_unless_one_is_named(start_probe: StartProbe) -> None:
    async with start_probe() as probe:
        probe.set(count=2)
        assert "A pack owns one whole GPU" in (await probe.do("open"))["error"]
    async with start_probe(CUDA_VISIBLE_DEVICES="1") as probe:
        probe.set(count=2)
        await probe.open()


async def test_a_hanging_driver_fails_the_reading_and_recovers_when_it_answers(
    start_probe: StartProbe,
) -> None:
    async with start_probe(timeout_seconds=1) as probe:
        await probe.open()
        probe.set(hang=1)
        assert "no answer in 1 s" in (await probe.do("read"))["error"]
        assert "an earlier call still hangs" in (await probe.do("read"))["error"]
        probe.set()
        async with asyncio.timeout(60):
            while "error" in (answer := await probe.do("read")):
                pass
        assert answer["power_watts"] == 335.5


async def test_a_hanging_driver_does_not_keep_the_process_from_ending(
    start_probe: StartProbe,
) -> None:
    async with start_probe(timeout_seconds=1) as probe:
        await probe.open()
        probe.set(hang=1)
        await probe.do("read")
        assert await probe.do("close") == {}
        assert probe.process.stdin is not None
        probe.process.stdin.close()
        async with asyncio.timeout(60):
            assert await probe.process.wait() == 0


async def test_engines_become_clients_of_the_mps_daemon(
    start_probe: StartProbe, tmp_path: Path
) -> None:
    python = Path(shutil.which("python3") or sys.executable).parent
    path = f"{FIXTURES / 'mps'}:{python}:{os.defpath}"
    async with start_probe(PATH=path) as probe:
        opened = await probe.open()
        assert opened["mps"] == "Running"
        assert opened["engine_env"] == {
            "CUDA_MPS_PIPE_DIRECTORY": str(tmp_path / "run/mps/pipe"),
            "CUDA_MPS_LOG_DIRECTORY": str(tmp_path / "run/mps/log"),
        }
        assert await probe.do("close") == {}


async def test_without_mps_the_gpu_is_open_and_mps_unavailable(start_probe: StartProbe) -> None:
    async with start_probe(PATH="/nonexistent") as probe:
        opened = await probe.open()
        assert opened["mps"] == "Unavailable"
        assert opened["engine_env"] == {}
