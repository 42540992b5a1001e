"""NvmlDevice through the real pynvml, over a driver library of our own."""

from __future__ import annotations

import os
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest

from nvml_probe import FIXTURES, StartProbe, probe_on
from nvml_standin import LIBRARY_NAME, build
from slm_worker.gpu.energy import MAX_GAP_SECONDS

NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND = 3, 4, 13


@pytest.fixture
def start_probe(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> StartProbe:
    return partial(probe_on, tmp_path, build(tmp_path_factory.getbasetemp()))


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


async def test_where_xids_cannot_be_had_the_gpu_is_opened_without(start_probe: StartProbe) -> None:
    async with start_probe() as probe:
        probe.set(events_error=NOT_SUPPORTED)
        await probe.open()
        assert await probe.health() == ("Healthy", "")


async def test_a_gpu_without_permission_names_the_device_files(start_probe: StartProbe) -> None:
    async with start_probe() as probe:
        probe.set(handle_error=NO_PERMISSION)
        assert "/dev/nvidia*" in (await probe.do("open"))["error"]


async def test_a_driver_library_that_cannot_be_loaded_is_an_error_with_a_remedy(
    tmp_path: Path,
) -> None:
    (tmp_path / LIBRARY_NAME).touch()
    async with probe_on(tmp_path, tmp_path) as probe:
        assert "install the NVIDIA driver" in (await probe.do("open"))["error"]


async def test_several_gpus_are_refused_unless_one_is_named(start_probe: StartProbe) -> None:
    async with start_probe() as probe:
        probe.set(count=2)
        assert "A pack owns one whole GPU" in (await probe.do("open"))["error"]
    async with start_probe(CUDA_VISIBLE_DEVICES="1") as probe:
        probe.set(count=2)
        assert (await probe.open())["identity"]["uuid"] == "GPU-00000001-test"


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
