"""A host without GPU as the pack's device: engines run on its cores and share its memory.

Energy comes from RAPL, the processor packages' own counters in Linux's powercap tree. Most
virtual machines and unprivileged containers cannot read them; energy is then unknown.
"""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from slm_worker.gpu.base import (
    MPS_NOT_NEEDED,
    DeviceError,
    DeviceIdentity,
    DeviceReading,
    MpsStatus,
)

MIN_POWER_INTERVAL_SECONDS = 0.1
"""RAPL counters advance about once a millisecond: shorter differences are mostly noise."""


class CpuHost:
    """Device for hosts without GPU. ``root`` is where /proc and /sys lie; ``clock`` is monotonic.

    Raises DeviceError when /proc/meminfo cannot be read.
    """

    mps: MpsStatus = MPS_NOT_NEEDED

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self.identity = DeviceIdentity(
            kind="CPU",
            name=_processor_name(root),
            memory_bytes=usable_memory_bytes(root),
            simulated=False,
        )
        self._rapl = Rapl(root)
        self._clock = clock
        self._last: tuple[float, int] | None = None
        self._power_watts: float | None = None

    async def read(self) -> DeviceReading:
        """Energy since the counters' zero; power is the mean since the reading before."""
        energy_microjoules = await asyncio.to_thread(self._rapl.read_microjoules)
        if energy_microjoules is None:
            self._last = self._power_watts = None
            return DeviceReading(energy_millijoules=None, power_watts=None)
        now = self._clock()
        if self._last is None:
            self._last = (now, energy_microjoules)
        elif (elapsed_seconds := now - self._last[0]) >= MIN_POWER_INTERVAL_SECONDS:
            self._power_watts = (energy_microjoules - self._last[1]) / 1e6 / elapsed_seconds
            self._last = (now, energy_microjoules)
        return DeviceReading(energy_microjoules // 1000, self._power_watts)

    def engine_env(self, memory_fraction: float | None = None) -> dict[str, str]:
        return {}

    async def release(self, pids: Collection[int]) -> None:
        """Nothing is held beyond a process's life."""

    async def recover(self) -> None:
        """Nothing is shared that could break."""

    async def close(self) -> None:
        """Holds nothing."""


@dataclass
class _Domain:
    counter: Path
    range_microjoules: int
    """The counter starts from zero again past this value."""
    raw: int
    wrapped_microjoules: int = 0


class Rapl:
    """Sum of the package domains' energy counters, without the jumps where one wraps around.

    A sum that lacks a package would look like a measurement, so one unreadable counter makes the
    whole unreadable. Counters wrap after some 260 kJ (20 minutes at 200 W): read more often.
    """

    def __init__(self, root: Path) -> None:
        self._domains = _package_domains(root / "sys/class/powercap")

    def read_microjoules(self) -> int | None:
        """Cumulative µJ of all packages; None where one cannot be read."""
        total = 0
        for domain in self._domains:
            raw = _read_integer(domain.counter)
            if raw is None:
                return None
            if raw < domain.raw:
                domain.wrapped_microjoules += domain.range_microjoules
            domain.raw = raw
            total += domain.wrapped_microjoules + raw
        return total if self._domains else None


def _package_domains(powercap: Path) -> list[_Domain]:
    domains = []
    for directory in sorted(powercap.glob("intel-rapl:*")):
        # intel-rapl:0 is a package, intel-rapl:0:0 a part of it; psys contains the packages.
        if directory.name.count(":") != 1 or not _text(directory / "name").startswith("package"):
            continue
        counter = directory / "energy_uj"
        raw, limit = _read_integer(counter), _read_integer(directory / "max_energy_range_uj")
        if raw is None or limit is None:
            return []
        domains.append(_Domain(counter, limit, raw))
    return domains


def usable_memory_bytes(root: Path) -> int:
    """Memory that this process may use: the machine's, or the least limit of its cgroups.

    Raises DeviceError when the machine does not tell.
    """
    meminfo = root / "proc/meminfo"
    for line in _text(meminfo).splitlines():
        if line.startswith("MemTotal:"):
            total_bytes = int(line.split()[1]) * 1024
            return min([total_bytes, *_cgroup_limits_bytes(root)])
    raise DeviceError(f"{meminfo} gives no MemTotal: mount /proc so that memory can be planned.")


def _cgroup_limits_bytes(root: Path) -> Iterator[int]:
    """Limits of the process's memory cgroup and all above it, cgroup v1 and v2.

    A container sees the path of its cgroup from the host but its own cgroup at the mount's top, so
    levels that are not there are passed over.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, file = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            mount, file = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        group = mount / path.lstrip("/")
        for level in (group, *group.parents):
            limit = _read_integer(level / file)
            if limit is not None:
                yield limit
            if level == mount:
                break


def _processor_name(root: Path) -> str:
    for line in _text(root / "proc/cpuinfo").splitlines():
        field, _, value = line.partition(":")
        if field.strip() == "model name":
            return value.strip()
    return f"{platform.machine()} CPU"


def _text(file: Path) -> str:
    """The file's text; empty where this host does not have it or does not let us read it."""
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _read_integer(file: Path) -> int | None:
    """The file's number; None where there is none (absent, unreadable, "max")."""
    text = _text(file).strip()
    return int(text) if text.isdecimal() else None
