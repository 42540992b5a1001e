"""NvmlDevice through the real pynvml, over a driver library of our own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from nvml_standin import LIBRARY_NAME, build, environment, write_lines
from slm_worker.gpu.energy import MAX_GAP_SECONDS
from slm_worker.gpu.simulated.faults import FaultKind, Injection
from slm_worker.gpu.simulated.inject import inject

FIXTURES = Path(__file__).parent.parent / "fixtures"
WELL: dict[str, object] = {
    "name": "Test GPU 80GB",
    "driver_version": "580.1",
    "memory_total_bytes": 85_899_345_920,
    "memory_used_bytes": 5_000_000_000,
    "energy_millijoules": 123_456_789_012,
    "power_milliwatts": 335_500,
    "utilization_percent": 97,
    "throttle_mask": 0x4,
    "mig": 0,
    "uncorrected_ecc_errors": 0,
    "row_remap_pending": 0,
}
NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND = 3, 4, 13
UNINITIALIZED, DRIVER_NOT_LOADED, GPU_IS_LOST, RESET_REQUIRED, MISMATCH = 1, 9, 15, 16, 18
UNKNOWN = 999


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


class Probe:
    """The probe process and the values that its driver answers from."""

    def __init__(self, process: asyncio.subprocess.Process, script: Path) -> None:
        self.process = process
        self._script = script

    def set(self, *lines: tuple[str, object], **changes: object) -> None:
        """A driver that is well but for the changes; None takes a value away."""
        values = [(key, value) for key, value in {**WELL, **changes}.items() if value is not None]
        write_lines(self._script, [*values, *lines])

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

    async def read(self) -> dict[str, Any]:
        """A reading, which no state of the driver turns into an error."""
        answer = await self.do("read")
        assert "error" not in answer, answer
        return answer

    async def health(self) -> tuple[str, str]:
        health = (await self.read())["health"]
        return health["state"], health["reason"]

    async def healthy_again(self) -> dict[str, Any]:
        """The first reading of a device that is healthy again, however long its backoff is."""
        async with asyncio.timeout(60):
            while (reading := await self.read())["health"]["state"] != "Healthy":
                await self.do("advance 60")
        return reading


StartProbe = Callable[..., AbstractAsyncContextManager[Probe]]


@pytest.fixture
def start_probe(tmp_path: Path, library: Path) -> StartProbe:
    @asynccontextmanager
    async def start(
        libraries: Path = library,
        read_patience_seconds: float = 60,
        state: Path | None = None,
        **env: str,
    ) -> AsyncIterator[Probe]:
        script = tmp_path / "script"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(FIXTURES / "nvml" / "probe.py"),
            str(tmp_path / "run"),
            str(read_patience_seconds),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={
                "PATH": os.defpath,
                **environment(libraries, script=script, state=state),
                **env,
            },
        )
        probe = Probe(process, script)
        probe.set()
        try:
            yield probe
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    return start


async def test_reads_identity_and_all_that_the_driver_tells(start_probe: StartProbe) -> None:
    async with start_probe() as probe:
        probe.set(("process", "41 1000"), ("process", "42 2000"), ("mps_process", "43 3000"))
        opened = await probe.open()
        assert opened["identity"] == {
            "kind": "NVIDIA",
            "name": "Test GPU 80GB",
            "memory_bytes": 85_899_345_920,
            "simulated": False,
            "uuid": "GPU-00000000-test",
            "driver_version": "580.1",
        }
        assert await probe.read() == {
            "energy_millijoules": 123_456_789_012,
            "power_watts": 335.5,
            "energy_source": "Counter",
            "memory_used_bytes": 5_000_000_000,
            "utilization_percent": 97,
            "throttle_reasons": ["SwPowerCap"],
            "process_memory_bytes": {"41": 1000, "42": 2000, "43": 3000},
            "health": {"state": "Healthy", "reason": "", "message": "", "since_seconds": None},
            "driver": "580.1",
        }


async def test_what_a_driver_does_not_tell_is_unknown_and_no_trouble(
    start_probe: StartProbe,
) -> None:
    async with start_probe() as probe:
        await probe.open()
        probe.set(
            utilization_error=NOT_SUPPORTED,
            processes_error=NO_PERMISSION,
            throttle_error=FUNCTION_NOT_FOUND,
            ecc_error=NOT_SUPPORTED,
            event_wait_error=NOT_SUPPORTED,
            energy_error=NOT_SUPPORTED,
            power_error=NOT_SUPPORTED,
        )
        reading = await probe.read()
        assert reading["health"]["state"] == "Healthy"
        assert reading["memory_used_bytes"] == 5_000_000_000
        unknown = ("energy_millijoules", "power_watts", "utilization_percent")
        assert [reading[key] for key in (*unknown, "process_memory_bytes")] == [None] * 4
        assert reading["energy_source"] == "Unknown"


async def test_a_value_that_fails_is_unknown_and_degrades(start_probe: StartProbe) -> None:
    async with start_probe() as probe:
        await probe.open()
        probe.set(energy_error=UNKNOWN)
        reading = await probe.read()
        assert (reading["energy_millijoules"], reading["power_watts"]) == (None, 335.5)
        assert reading["energy_source"] == "Counter", "the GPU has one: nothing else stands for it"
        assert reading["health"]["reason"] == "PartlyUnreadable"
        assert "energy (Unknown Error)" in reading["health"]["message"]
        probe.set()
        assert (await probe.read())["energy_millijoules"] == 123_456_789_012


async def test_without_energy_counter_power_is_integrated_and_said_so(
    start_probe: StartProbe,
) -> None:
    async with start_probe() as probe:
        probe.set(energy_millijoules=None)
        await probe.open()
        first = await probe.read()
        assert (first["energy_millijoules"], first["energy_source"]) == (0, "Integrated")
        await probe.do("advance 2")
        second = (await probe.read())["energy_millijoules"]
        assert 2 * 335_500 <= second <= MAX_GAP_SECONDS * 335_500, "two seconds and the test's own"


async def test_an_energy_counter_that_jumps_back_goes_on_from_where_it_was(
    start_probe: StartProbe,
) -> None:
    async with start_probe() as probe:
        await probe.open()
        before = (await probe.read())["energy_millijoules"]
        probe.set(energy_millijoules=1_000)
        assert (await probe.read())["energy_millijoules"] == before
        probe.set(energy_millijoules=1_700)
        assert (await probe.read())["energy_millijoules"] == before + 700


@pytest.mark.parametrize(
    ("code", "state", "reason", "remedy"),
    [
        (GPU_IS_LOST, "Lost", "GPULost", "restart the node"),
        (RESET_REQUIRED, "Lost", "GPUResetRequired", "reset the GPU"),
        (UNINITIALIZED, "Unresponsive", "DriverReloaded", "initialised again"),
        (DRIVER_NOT_LOADED, "Unresponsive", "DriverNotLoaded", "load the NVIDIA kernel driver"),
        (MISMATCH, "Unresponsive", "DriverMismatch", "delete the Pod"),
        (UNKNOWN, "Unresponsive", "DriverError", "kernel log"),
    ],
)
async def test_a_gpu_or_driver_that_fails_is_a_state_until_it_answers(
    start_probe: StartProbe, code: int, state: str, reason: str, remedy: str
) -> None:
    async with start_probe() as probe:
        await probe.open()
        await probe.read()
        probe.set(all_error=code)
        reading = await probe.read()
        assert (reading["health"]["state"], reading["health"]["reason"]) == (state, reason)
        assert remedy in reading["health"]["message"]
        assert (reading["energy_millijoules"], reading["power_watts"]) == (None, None)
        since_seconds = reading["health"]["since_seconds"]
        await probe.do("advance 60")
        assert (await probe.read())["health"]["since_seconds"] == since_seconds
        probe.set()
        assert (await probe.healthy_again())["power_watts"] == 335.5


async def test_a_reloaded_driver_is_opened_again_and_energy_goes_on(
    start_probe: StartProbe,
) -> None:
    async with start_probe() as probe:
        await probe.open()
        before = (await probe.read())["energy_millijoules"]
        reloaded = {"driver_generation": 1, "driver_version": "590.2"}
        probe.set(**reloaded, energy_millijoules=40)
        assert await probe.health() == ("Unresponsive", "DriverReloaded")
        again = await probe.healthy_again()
        assert (again["energy_millijoules"], again["driver"]) == (before, "590.2")
        probe.set(**reloaded, energy_millijoules=90)
        assert (await probe.read())["energy_millijoules"] == before + 50


async def test_while_the_driver_is_away_it_is_not_called_at_every_reading(
    start_probe: StartProbe,
) -> None:
    async with start_probe() as probe:
        await probe.open()
        probe.set(all_error=GPU_IS_LOST)
        for _ in range(7):  # until the next attempt is a minute away
            assert await probe.health() == ("Lost", "GPULost")
            await probe.do("advance 60")
        assert await probe.health() == ("Lost", "GPULost")
        probe.set(hang=1)  # a call would not come back before the test's end
        assert await probe.health() == ("Lost", "GPULost")


async def test_a_gpu_that_the_driver_no_longer_shows_is_lost(start_probe: StartProbe) -> None:
    async with start_probe() as probe:
        await probe.open()
        probe.set(driver_generation=1, count=0)
        await probe.read()
        await probe.do("advance 60")
        assert await probe.health() == ("Lost", "GPUMissing")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"uncorrected_ecc_errors": 2}, "UncorrectedMemoryErrors"),
        ({"row_remap_pending": 1}, "RowRemapPending"),
        ({"row_remap_failed": 1}, "RowRemapFailed"),
        ({"retired_pages": 60}, "PageRetirementExhausted"),
        ({"retired_pages": 1, "retirement_pending": 1}, "PageRetirementPending"),
        ({"throttle_mask": 0x40}, "ThermalSlowdown"),
        ({"throttle_mask": 0x88}, "PowerBrake"),
    ],
)
async def test_a_gpu_with_errors_or_held_down_is_degraded_and_read_on(
    start_probe: StartProbe, changes: dict[str, object], reason: str
) -> None:
    async with start_probe() as probe:
        await probe.open()
        probe.set(**changes)
        reading = await probe.read()
        assert (reading["health"]["state"], reading["health"]["reason"]) == ("Degraded", reason)
        assert reading["power_watts"] == 335.5


async def test_xids_of_the_hardware_degrade_until_the_driver_is_opened_again(
    start_probe: StartProbe,
) -> None:
    async with start_probe() as probe:
        probe.set(("xid", 48))
        await probe.open()
        assert await probe.health() == ("Healthy", ""), "what was before is over"
        probe.set(("xid", 48), ("xid", 31))
        assert await probe.health() == ("Healthy", ""), "a process's own fault"
        probe.set(("xid", 48), ("xid", 31), ("xid", 95))
        assert await probe.health() == ("Degraded", "XidCritical")
        health = (await probe.read())["health"]
        assert (health["reason"], "Xid 95" in health["message"]) == ("XidCritical", True)
        probe.set(("xid", 48), ("xid", 31), ("xid", 95), driver_generation=1)
        assert (await probe.healthy_again())["power_watts"] == 335.5


async def test_where_xids_cannot_be_had_the_gpu_is_opened_without(start_probe: StartProbe) -> None:
    async with start_probe() as probe:
        probe.set(events_error=NOT_SUPPORTED)
        await probe.open()
        assert await probe.health() == ("Healthy", "")


async def test_mig_is_refused_and_healed_by_switching_it_off(start_probe: StartProbe) -> None:
    async with start_probe() as probe:
        probe.set(mig=1)
        error = (await probe.do("open"))["error"]
        assert "MIG is enabled on Test GPU 80GB" in error
        assert "nvidia-smi -mig 0" in error
        probe.set(mig=0)
        await probe.open()
        probe.set(mig=1, driver_generation=1)
        await probe.read()
        await probe.do("advance 60")
        assert await probe.health() == ("Lost", "MIGEnabled")


async def test_a_refused_opening_leaves_no_initialisation_behind(start_probe: StartProbe) -> None:
    async with start_probe() as probe:
        probe.set(mig=1)
        assert "error" in await probe.do("open")
        assert "error" in await probe.do("open")
        probe.set()
        await probe.open()
        probe.set(driver_generation=1)  # one that was left would keep the library uninitialised
        await probe.healthy_again()


async def test_a_gpu_without_permission_names_the_device_files(start_probe: StartProbe) -> None:
    async with start_probe() as probe:
        probe.set(handle_error=NO_PERMISSION)
        assert "/dev/nvidia*" in (await probe.do("open"))["error"]


async def test_a_driver_library_that_cannot_be_loaded_is_an_error_with_a_remedy(
    start_probe: StartProbe, tmp_path: Path
) -> None:
    (tmp_path / LIBRARY_NAME).touch()
    async with start_probe(libraries=tmp_path) as probe:
        assert "install the NVIDIA driver" in (await probe.do("open"))["error"]


async def test_several_gpus_are_refused_unless_one_is_named(start_probe: StartProbe) -> None:
    async with start_probe() as probe:
        probe.set(count=2)
        assert "A pack owns one whole GPU" in (await probe.do("open"))["error"]
    async with start_probe(CUDA_VISIBLE_DEVICES="1") as probe:
        probe.set(count=2)
        assert (await probe.open())["identity"]["uuid"] == "GPU-00000001-test"


@pytest.mark.parametrize("part", ["energy", "processes", "ecc", "event_wait"])
async def test_a_hanging_driver_is_unresponsive_once_it_hangs_for_long(
    start_probe: StartProbe, part: str
) -> None:
    async with start_probe(read_patience_seconds=0.5) as probe:
        await probe.open()
        probe.set(**{f"{part}_hang": 1})
        slow = await probe.read()
        assert (slow["power_watts"], slow["health"]["state"]) == (None, "Healthy")
        await probe.do("advance 30")
        assert await probe.health() == ("Unresponsive", "DriverHangs")
        probe.set()
        assert (await probe.healthy_again())["power_watts"] == 335.5


async def test_a_slow_opening_is_neither_waited_for_nor_begun_anew(
    start_probe: StartProbe,
) -> None:
    async with start_probe(read_patience_seconds=0.5) as probe:
        await probe.open()
        probe.set(driver_generation=1)
        await probe.read()
        probe.set(driver_generation=1, init_hang=1)
        await probe.do("advance 60")
        assert await probe.health() == ("Unresponsive", "DriverReloaded")
        await probe.do("advance 15")
        assert await probe.health() == ("Unresponsive", "DriverHangs")
        probe.set(driver_generation=1)
        assert (await probe.healthy_again())["power_watts"] == 335.5


async def test_a_hanging_driver_does_not_keep_the_process_from_ending(
    start_probe: StartProbe,
) -> None:
    async with start_probe(read_patience_seconds=0.5) as probe:
        await probe.open()
        probe.set(hang=1)
        await probe.read()
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
