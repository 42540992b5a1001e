"""A child process that never outlives this one, however this one ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from slm_dev.controlplane import guard

# The guard kills the program itself after its grace; this is for a guard that hangs.
_STOP_SECONDS = guard.GRACE_SECONDS + 10
_TAIL_BYTES = 4000


class GuardedProcess:
    """A program under a guard, working in `folder`, with its output in `log`.

    `environment` is the program's; None gives it this process's own. When this process dies the
    guard ends the program and removes `folder`.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._log = log
        with log.open("wb") as output:
            # A session of its own keeps a terminal's Ctrl-C from the program: it is for the
            # starter, which then stops its programs in the right order.
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, str(folder), *command],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def exited(self) -> bool:
        """Return whether the program has ended."""
        return self._guard.poll() is not None

    def log_tail(self) -> str:
        """Return the end of the program's output."""
        return self._log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")

    def kill(self) -> None:
        """End the program by SIGKILL, as a crash would, and wait until it is gone."""
        os.killpg(self._guard.pid, signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        """End the program and wait until it is gone."""
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        try:
            self._guard.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._guard.pid, signal.SIGKILL)
            self._guard.wait()
