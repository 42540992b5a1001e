"""What a failing GPU or driver does to NvmlDevice: a state in the reading, never an exception."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from nvml_probe import StartProbe, probe_on
from nvml_standin import build

UNINITIALIZED, DRIVER_NOT_LOADED, GPU_IS_LOST = 1, 9, 15
RESET_REQUIRED, MISMATCH, UNKNOWN = 16, 18, 999


@pytest.fixture
def start_probe(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> StartProbe:
    return partial(probe_on, tmp_path, build(tmp_path_factory.getbasetemp()))


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
