"""Which GPUs can be simulated, and how fast a model runs on one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slm_worker.gpu.curves import IDLE_WATTS, opt_1_3b_on_h100
from slm_worker.gpu.simulated.state import Pace

DEFAULT_GPU = "h100-sxm-64gb"


@dataclass(frozen=True)
class GpuType:
    name: str
    memory_bytes: int
    idle_watts: float


GPUS = {DEFAULT_GPU: GpuType("Simulated H100 64GB", 64 * 2**30, IDLE_WATTS)}


def pace_of(model: Mapping[str, object], gpu: GpuType) -> Pace:
    return opt_1_3b_on_h100()
