"""The devices that need no GPU, opened by the kind that a pack's configuration names."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm_worker.gpu.base import GpuKind
from slm_worker.gpu.factory import open_device


@pytest.mark.parametrize("kind", ["CPU", "Simulated"])
async def test_opens_the_device_of_its_kind(kind: GpuKind, tmp_path: Path) -> None:
    device = await open_device(kind, tmp_path)
    try:
        assert device.identity.kind == kind
        assert device.identity.memory_bytes > 0
        assert device.mps.state == "NotNeeded"
        await device.read()
    finally:
        await device.close()
