"""Children that shall not outlive the agent, even when it is killed."""

from __future__ import annotations

import shutil


def die_with_parent() -> tuple[str, ...]:
    """What to put before a command: where util-linux is there, the kernel then sends the child
    SIGTERM when the agent is gone. In a Pod the container ends with the agent anyway."""
    return ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()
