"""The simulated GPU's instruments as a file, for what reads a GPU without its daemon's protocol.

Lines of ``key value``, replaced as a whole: ``energy_millijoules``, ``power_milliwatts``,
``memory_total_bytes``, ``memory_used_bytes``, ``utilization_percent``, and ``process PID BYTES``
for each engine. Of a lost GPU only its total memory is there.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from slm_worker.gpu.simulated.state import SimulatedGpu

INTERVAL_SECONDS = 0.1


def render(gpu: SimulatedGpu) -> str:
    """The file's content now."""
    lines = [f"memory_total_bytes {gpu.memory_bytes}"]
    if gpu.lost_at_seconds is None:
        lines += [
            f"memory_used_bytes {gpu.memory_used_bytes}",
            f"energy_millijoules {int(gpu.meter.joules * 1000)}",
            f"power_milliwatts {round(gpu.meter.watts * 1000)}",
            f"utilization_percent {round(100 * gpu.meter.utilization)}",
        ]
        lines += [f"process {pid} {size}" for pid, size in gpu.process_memory_bytes.items()]
    return "\n".join(lines) + "\n"


async def keep_written(gpu: SimulatedGpu, path: Path) -> None:
    """Writes the file ten times a second until cancelled. Raises OSError."""
    fresh = path.with_name(f"{path.name}.new")
    while True:
        fresh.write_text(render(gpu), encoding="ascii")
        fresh.replace(path)
        await asyncio.sleep(INTERVAL_SECONDS)
