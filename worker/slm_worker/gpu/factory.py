"""Opens the device that a pack's configuration names."""

from __future__ import annotations

import os
from pathlib import Path

from slm_worker.gpu.base import Device, GpuKind
from slm_worker.gpu.cpu import CpuHost
from slm_worker.gpu.mps import NO_LIMITS
from slm_worker.gpu.nvml import NvmlDevice
from slm_worker.gpu.nvml_caller import NvmlCaller
from slm_worker.gpu.simulated import SimulatedDevice
from slm_worker.gpu.simulated.device import GPU_VARIABLE
from slm_worker.gpu.simulated.pace import DEFAULT_GPU
from slm_worker.wire import MpsConfig


async def open_device(
    kind: GpuKind,
    run_dir: Path,
    mps: MpsConfig = NO_LIMITS,
    nvml: NvmlCaller | None = None,
) -> Device:
    """The pack's device, ready to be read; the caller closes it.

    ``run_dir`` is private to the agent: daemons keep their sockets and logs there. ``mps``: how
    replicas share an NVIDIA GPU. ``nvml``: one for all tries to open one. Raises
    DeviceError with cause and remedy.
    """
    match kind:
        case "NVIDIA":
            return await NvmlDevice.open(run_dir, mps=mps, nvml=nvml)
        case "CPU":
            return CpuHost()
        case "Simulated":
            return await SimulatedDevice.start(
                run_dir, gpu=os.environ.get(GPU_VARIABLE, DEFAULT_GPU)
            )
