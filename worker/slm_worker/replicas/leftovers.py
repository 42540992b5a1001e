"""What a predecessor that was killed, or a dead engine, left on this host: found and removed.

An agent that is killed with SIGKILL takes its engines along where the kernel lets it
(:mod:`slm_worker.replicas.parent`), but not their descendants. The next agent does not adopt them:
it has neither their pipe nor their exit status, so it ends them and starts its own. It knows them
by a variable in their environment, which names the address that only one agent at a time can hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

MARKER_VARIABLE = "SLM_REPLICA"
"""Environment variable of every engine process: the pack's address and the replica's index."""
RUN_DIR_PREFIX = "slm-"
OWNER_FILE = "address"
"""In an agent's run directory: the address of its pack."""
TERMINATE_SECONDS = 5.0
KILL_SECONDS = 10.0
LOOKS_APART_SECONDS = 0.5
"""Between the two looks that must both find a shared memory file unused: one that was just made
is not mapped for an instant."""

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux has it
_SHARED_MEMORY_PREFIXES = ("psm_", "vllm_", "torch_", "nccl-")
"""Names that engines give: Python's shared memory, vLLM, torch, and NCCL."""

log = logging.getLogger(__name__)


def marker(address: str, index: int) -> str:
    return f"{address}/{index}"


def claim(run_dir: Path, address: str) -> None:
    """Says whose ``run_dir`` is, for a successor."""
    (run_dir / OWNER_FILE).write_text(address)


async def end_engines(address: str) -> None:
    """Ends the engines of an earlier agent at ``address``.

    To be called while this agent holds the address's port, so that no other can live, and before
    anything else of the earlier one is ended: an engine is the client of its device's daemon. Never
    raises; what does not end is logged.
    """
    await asyncio.to_thread(_end_engines, address)


async def remove_files(address: str, run_dir: Path) -> None:
    """Removes what earlier agents at ``address`` left in files. ``run_dir`` is this agent's own. To
    be called once their daemons are gone, whose sockets lie there. Never raises."""
    await asyncio.to_thread(_remove_run_dirs, address, run_dir)
    await sweep_shared_memory()


async def sweep_shared_memory(directory: Path = _SHARED_MEMORY) -> None:
    """Removes shared memory of dead engines: this user's files with an engine's kind of name that
    no process has open or mapped."""
    unused = await asyncio.to_thread(_unused_files, directory)
    if not unused:
        return
    await asyncio.sleep(LOOKS_APART_SECONDS)
    for file in unused & await asyncio.to_thread(_unused_files, directory):
        with contextlib.suppress(OSError):
            file.unlink()
            log.warning("removed %s, shared memory of a process that is gone", file)


def group_members(group: int) -> list[int]:
    """The living processes of a process group."""
    return [pid for pid in psutil.pids() if _group_of(pid) == group and _lives(pid)]


def _end_engines(address: str) -> None:
    found = [one for one in _own_processes() if _marked(one, address)]
    if not found:
        return
    log.warning("ending %d processes of an earlier agent at %s", len(found), address)
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, left = psutil.wait_procs(found, TERMINATE_SECONDS)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    _, left = psutil.wait_procs(left, KILL_SECONDS)
    for process in left:
        log.error("process %d of an earlier agent does not end", process.pid)


def _marked(process: psutil.Process, address: str) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        return process.environ().get(MARKER_VARIABLE, "").startswith(f"{address}/")
    return False


def _remove_run_dirs(address: str, own: Path) -> None:
    for directory in own.parent.glob(f"{RUN_DIR_PREFIX}*"):
        if directory == own or _owner(directory) != address:
            continue
        shutil.rmtree(directory, ignore_errors=True)
        log.warning("removed %s of an earlier agent", directory)


def _owner(directory: Path) -> str | None:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return (directory / OWNER_FILE).read_text()
    return None


def _unused_files(directory: Path) -> set[Path]:
    with contextlib.suppress(OSError):
        files = {
            file
            for file in directory.iterdir()
            if file.name.startswith(_SHARED_MEMORY_PREFIXES) and file.stat().st_uid == os.getuid()
        }
        return files - _files_in_use(directory) if files else files
    return set()


def _files_in_use(directory: Path) -> set[Path]:
    used = set()
    for process in psutil.process_iter():
        used |= set(_mapped(process.pid, directory))
        used |= set(_open(process.pid, directory))
    return used


def _mapped(pid: int, directory: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines():
            start = line.find(f"{directory}/")
            if start >= 0:
                yield Path(line[start:])


def _open(pid: int, directory: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = Path(os.readlink(descriptor))  # noqa: PTH115 - "/x (deleted)" is no path
                if target.parent == directory:
                    yield target


def _own_processes() -> Iterator[psutil.Process]:
    """This user's living processes but the present one."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if (
                process.pid != os.getpid()
                and process.uids().real == os.getuid()
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                yield process


def _lives(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def _group_of(pid: int) -> int | None:
    with contextlib.suppress(ProcessLookupError):
        return os.getpgid(pid)
    return None
