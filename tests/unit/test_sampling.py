"""What one sample of the pack says of its device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import cast

import pytest

from slm_worker.engine.client import EngineNotAnsweringError
from slm_worker.engine.metrics import EngineSample
from slm_worker.gpu.base import (
    MPS_NOT_NEEDED,
    DeviceError,
    DeviceIdentity,
    DeviceReading,
    MpsStatus,
)
from slm_worker.replicas.health import ProgressWatch
from slm_worker.replicas.member import Replica
from slm_worker.replicas.planner import Settings
from slm_worker.replicas.replica import EngineRun
from slm_worker.reporting import gpu_state
from slm_worker.sampling import Sampler
from slm_worker.wire import GpuConfig, GpuHealth, ReplicaPhase

H100 = DeviceIdentity("NVIDIA", "H100", 80 << 30, False, "GPU-1", "580.1")
CONFIG = GpuConfig(kind="NVIDIA")
LOST = GpuHealth(state="Lost", reason="GPULost", message="restart the node", since_seconds=3.0)


@dataclass
class FakeDevice:
    answer: DeviceReading | DeviceError
    mps: MpsStatus = MPS_NOT_NEEDED
    identity: DeviceIdentity = H100

    async def read(self) -> DeviceReading:
        if isinstance(self.answer, DeviceError):
            raise self.answer
        return self.answer

    def engine_env(self, memory_fraction: float | None = None) -> dict[str, str]:
        return {}

    async def release(self, pids: object) -> None: ...

    async def recover(self) -> None: ...

    async def close(self) -> None: ...


@dataclass
class QuietRouter:
    queued: int = 0
    in_flight: Mapping[int, int] = field(default_factory=dict)

    async def stats(self) -> QuietRouter:
        return self


def sampler_of(device: FakeDevice) -> Sampler:
    return Sampler(device, QuietRouter(), running=lambda: (), starts=lambda: 0, clock=lambda: 100.0)


async def test_a_reading_reaches_the_wire() -> None:
    reading = DeviceReading(
        1_000,
        335.5,
        energy_source="Integrated",
        memory_used_bytes=7,
        utilization_percent=90,
        throttle_reasons=("SwPowerCap",),
        health=GpuHealth(state="Degraded", reason="RowRemapPending", message="reset it"),
    )
    device = FakeDevice(reading)
    sampler = sampler_of(device)
    await sampler.sample()
    told = gpu_state(CONFIG, device, sampler)
    assert (told.uuid, told.driver_version) == ("GPU-1", "580.1")
    assert (told.power_watts, told.energy_source) == (335.5, "Integrated")
    assert (told.memory_used_bytes, told.utilization_percent) == (7, 90)
    assert told.throttle_reasons == ("SwPowerCap",)
    assert told.health == reading.health
    assert sampler.device_problem is None, "a degraded GPU still serves"


@pytest.mark.parametrize("state", ["Lost", "Unresponsive"])
async def test_a_device_that_does_not_serve_is_a_problem_until_it_does(state: str) -> None:
    health = LOST.model_copy(update={"state": state})
    device = FakeDevice(DeviceReading(None, None, health=health))
    sampler = sampler_of(device)
    await sampler.sample()
    assert sampler.device_problem is not None
    assert sampler.device_problem.reason == "GPULost"
    assert sampler.device_problem.message == "restart the node"
    device.answer = DeviceReading(5, 300.0)
    await sampler.sample()
    assert sampler.device_problem is None


async def test_a_device_that_raises_is_unresponsive_and_ends_no_sampling() -> None:
    device = FakeDevice(DeviceError("its daemon is gone"))
    sampler = sampler_of(device)
    await sampler.sample()
    health = gpu_state(CONFIG, device, sampler).health
    assert (health.state, health.reason) == ("Unresponsive", "DeviceUnreadable")
    assert health.message == "its daemon is gone"
    assert sampler.counters is not None
    assert sampler.counters.energy_millijoules is None


@pytest.mark.parametrize(
    ("reason", "throttled", "capped"),
    [
        ("SwPowerCap", 0.0, 1.0),
        ("HwThermalSlowdown", 1.0, 0.0),
        ("HwPowerBrakeSlowdown", 1.0, 0.0),
        ("ApplicationsClocksSetting", 0.0, 0.0),
    ],
)
async def test_the_power_limit_is_told_apart_from_heat(
    reason: str, throttled: float, capped: float
) -> None:
    times = iter((100.0, 101.0))
    device = FakeDevice(DeviceReading(5, 300.0, throttle_reasons=(reason,)))
    sampler = Sampler(
        device, QuietRouter(), running=lambda: (), starts=lambda: 0, clock=lambda: next(times)
    )
    await sampler.sample()
    await sampler.sample()
    assert sampler.counters is not None
    assert sampler.counters.throttled_seconds == throttled
    assert sampler.counters.power_capped_seconds == capped


def test_before_the_first_sample_nothing_is_known_of_the_reading() -> None:
    told = gpu_state(CONFIG, FakeDevice(DeviceReading(5, 300.0)), None)
    assert (told.power_watts, told.energy_source) == (None, "Unknown")


@dataclass
class SilentRun:
    """An engine that answers nobody, and has used so much processor time at each look."""

    used_seconds: list[float]

    @property
    def client(self) -> SilentRun:
        return self

    @property
    def process(self) -> SilentRun:
        return self

    async def scrape(self) -> EngineSample:
        raise EngineNotAnsweringError("/metrics gave no counters: no answer in time")

    def cpu_seconds(self) -> float:
        return self.used_seconds.pop(0)


@pytest.mark.parametrize(("used_seconds", "hung"), [(90.0, False), (1.0, True)])
async def test_what_a_silent_engine_computed_tells_overload_from_a_hang(
    used_seconds: float, hung: bool
) -> None:
    times = iter((0.0, 100.0))
    watch = ProgressWatch(0.0)
    one = Replica(0, Settings(8, 1, None, Fraction(1)), ReplicaPhase.READY, starts=1, watch=watch)
    one.run = cast("EngineRun", SilentRun([0.0, used_seconds]))
    sampler = Sampler(
        FakeDevice(DeviceReading(5, 300.0)),
        QuietRouter(),
        running=lambda: (one,),
        starts=lambda: 1,
        clock=lambda: next(times),
    )
    await sampler.sample()
    await sampler.sample()
    watch.probed(False, 100.0)
    watch.probed(False, 100.0)
    assert watch.hung(100.0) is hung
