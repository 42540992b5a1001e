"""Finds MPS daemons and servers among the processes of this machine, and ends those of ours.

Every agent has its own directories, and marks what it starts, so that an agent that was killed can
be told from one that still runs beside this one. Mark and directories mean something in the
agent's own container only: what runs in another's, as an agent of the node sees it, is left alone.
All functions block, for milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from slm_worker.gpu.mps_control import OWNER_VARIABLE, MpsDirectories

PROGRAMS = "nvidia-cuda-mps-"
"""What the names of the daemon's and the server's programs begin with."""

_PROC = Path("/proc")


@dataclass(frozen=True)
class MpsProcess:
    pid: int
    owner: str
    """Mark of the agent that started it; empty where none of ours did."""
    directories: MpsDirectories


def mark(pid: int) -> str:
    """What names the process ``pid`` for good: its number and when it began. Empty without it."""
    try:
        text = (_PROC / f"{pid}/stat").read_text()
    except OSError:
        return ""
    # The program's name, in parentheses, may hold spaces; the start time is field 22.
    return f"{pid}:{text.rpartition(')')[2].split()[19]}"


def mps_processes() -> list[MpsProcess]:
    """Every daemon and server of this user in this process's PID namespace."""
    found = []
    namespace = _pid_namespace(_PROC / "self")
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            # Gone meanwhile, or somebody else's: in both cases not ours.
            with contextlib.suppress(OSError):
                if _pid_namespace(entry) != namespace:
                    continue
                arguments = (entry / "cmdline").read_bytes().split(b"\0")[:4]
                # The program may come after an interpreter and its options.
                if any(Path(os.fsdecode(a)).name.startswith(PROGRAMS) for a in arguments):
                    found.append(_described(int(entry.name), (entry / "environ").read_bytes()))
    return [one for one in found if one is not None]


def in_directories(directories: MpsDirectories) -> list[int]:
    """The processes of the daemon in ``directories``, its servers included."""
    return [one.pid for one in mps_processes() if one.directories.pipe == directories.pipe]


def orphaned() -> list[MpsDirectories]:
    """Directories of daemons and servers whose agent is gone."""
    dead = (one for one in mps_processes() if one.owner and not _runs(one.owner))
    return sorted({one.directories for one in dead}, key=lambda one: str(one.pipe))


def kill(pids: Collection[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def reap(pids: Collection[int]) -> None:
    """Takes note of the end of those that became children of this process: as the first process
    of a container the agent inherits what a daemon's start leaves without a parent."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def remove(directories: MpsDirectories) -> None:
    """Removes the pipes and logs of a daemon that is gone."""
    for path in (directories.pipe, directories.log):
        shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        directories.pipe.parent.rmdir()


def groups(pids: Collection[int]) -> dict[int, int]:
    """The process group of each process that is still there."""
    found = {}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            found[pid] = os.getpgid(pid)
    return found


def _pid_namespace(process: Path) -> Path:
    """Raises OSError where this user may not know it."""
    return (process / "ns/pid").readlink()


def _described(pid: int, environ: bytes) -> MpsProcess | None:
    variables = dict(part.split("=", 1) for part in os.fsdecode(environ).split("\0") if "=" in part)
    pipe, log = (variables.get(f"CUDA_MPS_{kind}_DIRECTORY") for kind in ("PIPE", "LOG"))
    if pipe is None or log is None:
        return None
    directories = MpsDirectories(Path(pipe), Path(log))
    return MpsProcess(pid, variables.get(OWNER_VARIABLE, ""), directories)


def _runs(owner: str) -> bool:
    pid = owner.partition(":")[0]
    return pid.isdecimal() and mark(int(pid)) == owner
