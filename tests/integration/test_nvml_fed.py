"""The driver's stand-in fed by a simulated GPU's state file."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from nvml_probe import WELL, StartProbe, probe_on
from nvml_standin import build, write_lines
from slm_worker.gpu.simulated.faults import FaultKind, Injection
from slm_worker.gpu.simulated.inject import inject


@pytest.fixture
def start_probe(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> StartProbe:
    return partial(probe_on, tmp_path, build(tmp_path_factory.getbasetemp()))


FED: dict[str, object] = {
    "energy_millijoules": 500,
    "power_milliwatts": 443_100,
    "memory_total_bytes": 64 << 30,
    "memory_used_bytes": 7,
}


NOTHING_SCRIPTED = dict.fromkeys(WELL)


async def test_a_state_file_feeds_the_driver_and_the_script_overrides_it(
    start_probe: StartProbe, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    write_lines(state, [*FED.items(), ("process", "9 7")])
    async with start_probe(state=state) as probe:
        probe.set(**NOTHING_SCRIPTED)
        assert (await probe.open())["identity"]["memory_bytes"] == 64 << 30
        reading = await probe.read()
        assert (reading["energy_millijoules"], reading["power_watts"]) == (500, 443.1)
        assert (reading["memory_used_bytes"], reading["process_memory_bytes"]) == (7, {"9": 7})
        write_lines(state, (FED | {"energy_millijoules": 900}).items())
        assert (await probe.read())["energy_millijoules"] == 900
        probe.set(("process", "8 1"), **NOTHING_SCRIPTED | {"energy_millijoules": 950})
        reading = await probe.read()
        assert reading["energy_millijoules"] == 950
        assert reading["process_memory_bytes"] == {"8": 1}


async def test_a_fed_gpu_that_is_lost_is_lost_to_the_driver(
    start_probe: StartProbe, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    write_lines(state, FED.items())
    async with start_probe(state=state) as probe:
        probe.set(**NOTHING_SCRIPTED)
        await probe.open()
        write_lines(state, [("memory_total_bytes", 64 << 30)])
        assert await probe.health() == ("Lost", "GPULost")


@asynccontextmanager
async def simulated_gpu(directory: Path) -> AsyncIterator[tuple[Path, Path]]:
    """Socket and state file of a running simulated GPU."""
    socket, state = directory / "gpu.sock", directory / "gpu-state"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "slm_worker.gpu.simulated.daemon"),
        *("--socket", str(socket), "--state-file", str(state)),
        stdin=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            while not state.exists():
                assert process.returncode is None, "the simulated GPU ended"
                await asyncio.sleep(0.05)
        yield socket, state
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_simulated_gpu_feeds_the_driver(start_probe: StartProbe) -> None:
    with TemporaryDirectory() as short:  # a socket's path must be
        async with (
            simulated_gpu(Path(short)) as (socket, state),
            start_probe(state=state) as probe,
        ):
            probe.set(**NOTHING_SCRIPTED)
            opened = await probe.open()
            assert opened["identity"]["memory_bytes"] >= 64 << 30
            first = await probe.read()
            assert first["power_watts"] > 0
            assert (first["memory_used_bytes"], first["process_memory_bytes"]) == (0, {})
            async with asyncio.timeout(60):
                while (await probe.read())["energy_millijoules"] <= first["energy_millijoules"]:
                    await asyncio.sleep(0.1)
            await inject(socket, Injection(kind=FaultKind.GPU_LOST))
            async with asyncio.timeout(60):
                while await probe.health() != ("Lost", "GPULost"):
                    await asyncio.sleep(0.1)
