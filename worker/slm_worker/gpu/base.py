"""The small protocol through which the agent sees the device that a pack owns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

GpuKind = Literal["NVIDIA", "CPU", "Simulated"]


@dataclass(frozen=True)
class DeviceIdentity:
    kind: GpuKind
    name: str
    memory_bytes: int
    simulated: bool


@dataclass(frozen=True)
class DeviceReading:
    """One reading. ``None`` means that nobody can measure it here, never zero."""

    energy_millijoules: int | None
    """Cumulative, from the device's own counter."""
    power_watts: float | None


@dataclass(frozen=True)
class MpsStatus:
    """Whether engine processes share the device through CUDA MPS.

    ``Unavailable`` means that they would take turns, so a pack runs one replica only; the message
    says why and what to install.
    """

    state: Literal["NotNeeded", "Running", "Unavailable"]
    message: str = ""


MPS_NOT_NEEDED = MpsStatus("NotNeeded")


class Device(Protocol):
    identity: DeviceIdentity

    @property
    def mps(self) -> MpsStatus:
        """How processes share this device."""

    async def read(self) -> DeviceReading:
        """Reads the counters. Raises DeviceError when the device does not answer."""

    def engine_env(self) -> dict[str, str]:
        """Environment that engine processes need to use this device."""

    async def close(self) -> None:
        """Releases what the device holds (a simulated device ends its daemon)."""


class DeviceError(Exception):
    """The device cannot be used or read; the text names cause and remedy."""
