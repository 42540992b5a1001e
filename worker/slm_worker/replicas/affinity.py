"""CPU cores of engine processes: disjoint sets, so that replicas do not slow each other.

What is divided are the cores that the scheduler lets the agent use, which a cgroup's cpuset limits.
A CFS quota (cpu.max) limits time, not cores, and does not change the division: with a quota of 2
cores' time on a node of 64, two replicas get 32 cores each. Picking as many cores as the quota
allows would be wrong, since every other pack on the node would pick the same ones, and the kernel
could not move a thread away from a busy core. The quota is the user's to set; 2 cores a replica.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

import psutil

MIN_CORES_PER_REPLICA = 2
"""Below this, pinning an engine's server and its core loop together would hurt more than help."""


def core_sets(cores: Iterable[int], replicas: int) -> tuple[frozenset[int], ...] | None:
    """Neighbouring cores for each replica, equally many; None where there are too few to divide.

    What division leaves over stays free for the agent and the router.
    """
    ordered = sorted(cores)
    each = len(ordered) // replicas
    if each < MIN_CORES_PER_REPLICA:
        return None
    return tuple(frozenset(ordered[index * each : (index + 1) * each]) for index in range(replicas))


def pin(pid: int, cores: frozenset[int]) -> None:
    """Moves a process, its threads and its descendants to ``cores``; those that ended are left."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                for thread in process.threads():
                    with contextlib.suppress(ProcessLookupError):
                        os.sched_setaffinity(thread.id, cores)
