"""`slmctl` as a process whose files lie under a folder of its own, by which all that it starts is
known."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

SLMCTL = [sys.executable, "-c", "from slm_operator.cli.app import main; main()"]
LINE_SECONDS = 120.0
GONE_SECONDS = 60.0


class Slmctl:
    """Runs in ``folder``; ``env`` replaces what it would inherit."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        env: Mapping[str, str] = MappingProxyType({}),
        stdout: int | None = None,
    ) -> None:
        # Short, since sockets lie below it.
        self._temporary = Path(tempfile.mkdtemp(prefix="slmd-"))
        self._out, self._err = folder / "out", folder / "err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*SLMCTL, *arguments],
                cwd=folder,
                env={**os.environ, "TMPDIR": str(self._temporary), **env},
                stdout=out if stdout is None else stdout,
                stderr=err,
                start_new_session=True,
            )

    def wait(self, seconds: float) -> int:
        return self.process.wait(seconds)

    def wait_for_line(self, text: str) -> None:
        """Waits until it has told ``text``."""

        def told() -> bool:
            assert self.process.poll() is None, self.told()
            return text in self.told()

        assert until(told, LINE_SECONDS), self.told()

    def press_ctrl_c(self) -> None:
        """As a terminal does, which signals the whole process group in front."""
        os.killpg(self.process.pid, signal.SIGINT)

    def told(self) -> str:
        return self._err.read_text()

    def printed(self) -> str:
        return self._out.read_text()

    def answer(self) -> dict[str, Any]:
        """The document on stdout, which is all that is there."""
        document: dict[str, Any] = json.loads(self.printed())
        return document

    def left_processes(self) -> list[str]:
        """Command lines of what runs with, or in, this run's folder."""
        mark = str(self._temporary).encode()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                command = (entry / "cmdline").read_bytes()
                traces = [
                    command,
                    (entry / "environ").read_bytes(),
                    bytes((entry / "cwd").readlink()),
                ]
            except OSError:
                continue
            if command and any(mark in trace for trace in traces):
                found.append(f"{entry.name}: {command.decode(errors='replace')}")
        return found

    def left_files(self) -> list[str]:
        return sorted(str(p) for p in self._temporary.iterdir())

    def clean(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(GONE_SECONDS)
        shutil.rmtree(self._temporary, ignore_errors=True)


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether ``condition`` came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
