"""Ends MPS daemons with their servers: this agent's own, and what agents that are gone left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path

from slm_worker.gpu import mps_processes as processes
from slm_worker.gpu.mps_control import ControlError, MpsControl, MpsDirectories

POLL_SECONDS = 0.1

_log = logging.getLogger(__name__)


def control_of(directories: MpsDirectories, command_seconds: float) -> MpsControl:
    """Commands to the daemon in ``directories``, which is marked as this agent's when started."""
    return MpsControl(directories, command_seconds, owner=processes.mark(os.getpid()))


async def end_daemon(control: MpsControl, directories: MpsDirectories, seconds: float) -> None:
    """Ends what runs in ``directories`` and empties the pipe directory. Never raises.

    A plain quit waits for clients without end, so that a forced one follows after ``seconds``, and
    SIGKILL after as long again, since a daemon that hangs takes neither.
    """
    pids = await asyncio.to_thread(processes.in_directories, directories)
    for force_after_seconds in (None, 0):
        if not await asyncio.to_thread(processes.in_directories, directories):
            break
        with contextlib.suppress(ControlError, TimeoutError):
            async with asyncio.timeout(seconds):
                await control.quit(force_after_seconds)
                await _until_gone(directories)
    if left := await asyncio.to_thread(processes.in_directories, directories):
        _log.warning("the MPS processes %s do not end and are killed", left)
        await asyncio.to_thread(processes.kill, left)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await _until_gone(directories)
    await asyncio.to_thread(processes.reap, pids)
    # A socket without a daemon would look like a daemon to the next.
    await asyncio.to_thread(_empty, directories.pipe)


async def end_leftovers(own: MpsDirectories, command_seconds: float, quit_seconds: float) -> None:
    """Ends whatever runs in ``own``, where this agent has not started anything yet, and what
    agents that are gone had started in theirs, with those directories."""
    for directories in {own, *await asyncio.to_thread(processes.orphaned)}:
        if await asyncio.to_thread(processes.in_directories, directories):
            _log.warning("ending an MPS daemon that an earlier agent left in %s", directories.pipe)
            control = control_of(directories, command_seconds)
            await end_daemon(control, directories, quit_seconds)
            await asyncio.to_thread(processes.remove, directories)


async def _until_gone(directories: MpsDirectories) -> None:
    while True:
        if not await asyncio.to_thread(processes.in_directories, directories):
            return
        await asyncio.sleep(POLL_SECONDS)


def _empty(directory: Path) -> None:
    if directory.is_dir():
        for path in directory.iterdir():
            if not path.is_dir():
                path.unlink(missing_ok=True)
