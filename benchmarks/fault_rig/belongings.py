"""What a pack holds of the machine, so that a leak of it can be seen."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression, median

import psutil

from benchmarks.pack import Pack

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux has it


@dataclass(frozen=True)
class Held:
    """Resident memory and open files of one process."""

    resident_bytes: int
    files: int


@dataclass(frozen=True)
class Belongings:
    """One look at a pack that is settled and has no request. ``at_seconds``: monotonic clock."""

    at_seconds: float
    agent_pid: int
    agent: Held
    router: Held
    gpu: Held
    """The simulated GPU's daemon."""
    processes: int
    """The agent and all that descends from it."""
    listening_ports: int
    files: int
    """Below the pack's directory for temporary files, with their folders."""
    shared_memory_files: int
    """Of the whole machine."""


def look(pack: Pack, at_seconds: float) -> Belongings:
    """Raises RuntimeError where a part of the pack does not run."""
    agent = pack.agent()
    family = [agent, *agent.children(recursive=True)]
    return Belongings(
        at_seconds=at_seconds,
        agent_pid=agent.pid,
        agent=_held(agent),
        router=_held(_one(family, "haproxy")),
        gpu=_held(_one(family, "slm_worker.gpu.simulated.daemon")),
        processes=len(family),
        listening_ports=len(_ports(family)),
        files=sum(1 for _ in pack.tmp.rglob("*")),
        shared_memory_files=len(list(_SHARED_MEMORY.iterdir())),
    )


def leftovers(family: Sequence[psutil.Process], address: str, tmp: Path) -> tuple[str, ...]:
    """What is still there of a pack that has ended: processes, listening ports and files."""
    found = [f"process {one.pid}" for one in family if one.is_running()]
    found += [
        f"port {one.laddr.port}"
        for one in psutil.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.ip == address
    ]
    return (*found, *(f"file {path}" for path in tmp.iterdir()))


def bytes_per_minute(looks: Sequence[tuple[float, int]]) -> float | None:
    """Slope of the line through (seconds, bytes); None with fewer than three looks."""
    if len(looks) < 3:
        return None
    seconds, size = zip(*looks, strict=True)
    return 60 * linear_regression(seconds, size).slope


def growth_bytes(looks: Sequence[tuple[float, int]]) -> float | None:
    """Median of the last third of the looks less that of the first; None with fewer than three."""
    third = len(looks) // 3
    if not third:
        return None
    sizes = [size for _, size in looks]
    return median(sizes[-third:]) - median(sizes[:third])


def _held(process: psutil.Process) -> Held:
    return Held(process.memory_info().rss, process.num_fds())


def _one(family: Sequence[psutil.Process], word: str) -> psutil.Process:
    for process in family:
        with suppress(psutil.NoSuchProcess):
            if any(word in part for part in process.cmdline()):
                return process
    raise RuntimeError(f"no {word} among {family}")


def _ports(family: Sequence[psutil.Process]) -> set[tuple[str, int]]:
    found = set()
    for process in family:
        with suppress(psutil.NoSuchProcess):
            for one in process.net_connections("tcp"):
                if one.status == psutil.CONN_LISTEN and one.laddr:
                    found.add((one.laddr.ip, one.laddr.port))
    return found
