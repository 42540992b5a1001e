"""The small protocol through which the agent sees the device that a pack owns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from slm_worker.wire import GpuHealth

GpuKind = Literal["NVIDIA", "CPU", "Simulated"]


HEALTHY = GpuHealth()


@dataclass(frozen=True)
class DeviceIdentity:
    kind: GpuKind
    name: str
    memory_bytes: int
    simulated: bool
    uuid: str = ""
    driver_version: str = ""


@dataclass(frozen=True)
class DeviceReading:
    """One reading. ``None`` means that nobody can measure it here, never zero.

    A device that fails answers with a reading all the same: what it cannot say is None, and
    ``health`` says why.
    """

    energy_millijoules: int | None
    """Cumulative and never falling while the device is open, whatever its counter does."""
    power_watts: float | None
    energy_source: Literal["Counter", "Integrated", "Unknown"] = "Unknown"
    memory_used_bytes: int | None = None
    utilization_percent: int | None = None
    throttle_reasons: tuple[str, ...] = ()
    process_memory_bytes: Mapping[int, int] | None = None
    """By process id as the driver counts them: in a container without the host's process
    namespace these may be the node's. A process whose memory the driver does not tell is absent."""
    health: GpuHealth = HEALTHY


@dataclass(frozen=True)
class MpsStatus:
    """Whether engine processes share the device through CUDA MPS.

    ``Unavailable`` means that they would take turns, so a pack runs one replica only; the message
    says why and what to install. ``Faulted`` means that a fatal fault ended every client, or will
    refuse new ones, until :meth:`Device.recover`; the message is the cause from the server's log.
    """

    state: Literal["NotNeeded", "Running", "Faulted", "Unavailable"]
    message: str = ""
    faults: int = 0
    """Fatal faults since the device was opened."""
    suspect_pids: tuple[int, ...] = ()
    """Replicas (leaders of process groups) of which the log says that they caused the present
    fault; empty where it names none."""


MPS_NOT_NEEDED = MpsStatus("NotNeeded")


class Device(Protocol):
    identity: DeviceIdentity

    @property
    def mps(self) -> MpsStatus:
        """How processes share this device."""

    async def read(self) -> DeviceReading:
        """Reads the counters. Raises DeviceError when the device does not answer."""

    def engine_env(self, memory_fraction: float | None = None) -> dict[str, str]:
        """Environment that an engine process needs to use this device.

        ``memory_fraction``: its share of the device's memory, 0 to 1, which it shall not exceed
        where the device can hold it to that; None sets no limit.
        """

    async def release(self, pids: Collection[int]) -> None:
        """To be called before these processes get SIGKILL: ends their hold on the device, so that
        no fault reaches the others. Never raises."""

    async def recover(self) -> None:
        """Brings sharing back after a fault; to be called once no replica runs any more. The
        outcome shows in :attr:`mps`. Never raises."""

    async def close(self) -> None:
        """Releases what the device holds (a simulated device ends its daemon)."""


class DeviceError(Exception):
    """The device cannot be used or read; the text names cause and remedy."""
