"""What the pack's state says of its device, from what was last read of it."""

from __future__ import annotations

from slm_worker.gpu.base import Device, DeviceReading
from slm_worker.sampling import Sampler
from slm_worker.wire import GpuConfig, GpuState

NOT_READ = DeviceReading(energy_millijoules=None, power_watts=None)


def gpu_state(config: GpuConfig, device: Device | None, sampler: Sampler | None) -> GpuState:
    """``device`` is None until it is open, ``sampler`` until the first replica may start."""
    if device is None:
        return GpuState(
            kind=config.kind,
            name="",
            memory_bytes=0,
            simulated=config.kind == "Simulated",
            mps="Unavailable",
            mps_message="the device is not open yet",
        )
    mps = device.mps
    reading = (sampler.reading if sampler else None) or NOT_READ
    return GpuState(
        kind=device.identity.kind,
        name=device.identity.name,
        uuid=device.identity.uuid,
        driver_version=device.identity.driver_version,
        memory_bytes=device.identity.memory_bytes,
        simulated=device.identity.simulated,
        memory_used_bytes=reading.memory_used_bytes,
        power_watts=reading.power_watts,
        energy_source=reading.energy_source,
        utilization_percent=reading.utilization_percent,
        throttle_reasons=reading.throttle_reasons,
        health=reading.health,
        mps=mps.state,
        mps_message=mps.message,
        mps_faults=mps.faults,
    )
