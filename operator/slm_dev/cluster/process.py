"""Programs that go on when the one that started them ends, and can be found again."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slm_dev.cluster.requirements import search_path

_TAIL_BYTES = 4000
_POLL_SECONDS = 0.05


class ProcessError(RuntimeError):
    """A program did not start or end as it should."""


@dataclass(frozen=True)
class DetachedProcess:
    """A program by its record: a file that names its process for as long as it is to run.

    Process ids are used again, so the record holds the process's start time too.
    """

    name: str
    record: Path
    log: Path

    def start(self, command: Sequence[str], folder: Path) -> None:
        """Start it in `folder`; nothing is done if it runs already."""
        if self.running():
            return
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, "PATH": search_path()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started = start_time(process.pid)
        if started is not None:
            self.record.write_text(json.dumps({"pid": process.pid, "started": started}))

    def pid(self) -> int | None:
        """The process's id, or None if it does not run."""
        try:
            record = json.loads(self.record.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        pid = int(record["pid"])
        return pid if start_time(pid) == record["started"] else None

    def running(self) -> bool:
        """Whether it runs."""
        return self.pid() is not None

    def stop(self, grace_seconds: float = 10.0) -> None:
        """End it by SIGTERM, and by SIGKILL after the grace; forget its record."""
        pid = self.pid()
        if pid is not None and not end(pid, signal.SIGTERM, grace_seconds):
            self.kill()
        self.record.unlink(missing_ok=True)

    def kill(self) -> None:
        """End it by SIGKILL, as a crash would.

        Raises:
            ProcessError: the kernel does not let go of it.
        """
        pid = self.pid()
        if pid is not None and not end(pid, signal.SIGKILL, 10.0):
            raise ProcessError(f"{self.name}, process {pid}, does not end even by SIGKILL")

    def log_tail(self) -> str:
        """The end of what it printed."""
        return self.log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")


def end(pid: int, number: signal.Signals, timeout_seconds: float) -> bool:
    """Send a signal to a process and return whether it ended in time."""
    started = start_time(pid)
    if started is None:
        return True
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return True
    deadline = time.monotonic() + timeout_seconds
    while start_time(pid) == started:
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if it has ended.

    One that has ended but that nobody has waited for counts as ended.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # Fields 3 (state) and 22 (starttime) of proc(5); the name before them may hold spaces.
    state, *rest = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(rest[18])
