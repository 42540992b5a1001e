"""Children that shall not outlive the agent, even when it is killed, nor be lost by it."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys


def die_with_parent() -> tuple[str, ...]:
    """What to put before a command: where util-linux is there, the kernel then sends the child
    SIGTERM when the agent is gone. In a Pod the container ends with the agent anyway."""
    return ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()


def await_children_without_threads() -> None:
    """To be called before the event loop runs. Python 3.11 starts a thread for each child once that
    runs, and where the limit of processes leaves none, the child is there and nobody knows it.
    """
    if sys.version_info < (3, 12) and _has_pidfd():
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())


def _has_pidfd() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:  # an old kernel, or a sandbox
        return False
    return True
