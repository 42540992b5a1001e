"""A process with an NvmlDevice over the stand-in for the driver, and the driver's values."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from nvml_standin import environment, write_lines

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
""":func:`probe_on` with its first two arguments."""


@asynccontextmanager
async def probe_on(
    directory: Path,
    library: Path,
    *,
    read_patience_seconds: float = 60,
    state: Path | None = None,
    **env: str,
) -> AsyncIterator[Probe]:
    """``env`` is the process's whole environment but for what names the library and its files."""
    script = directory / "script"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(FIXTURES / "nvml" / "probe.py"),
        str(directory / "run"),
        str(read_patience_seconds),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={"PATH": os.defpath, **environment(library, script=script, state=state), **env},
    )
    probe = Probe(process, script)
    probe.set()
    try:
        yield probe
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
