"""A Python module of this repository as a process that can be killed and started again."""

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from slm_dev.controlplane.process import GuardedProcess

Result = TypeVar("Result")


class StackError(RuntimeError):
    """A part of the stack did not start or has ended; the text ends with what it logged."""


class Program:
    """One Python module as a guarded process that can be started again."""

    def __init__(
        self, folder: Path, name: str, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self._folder = folder
        self.command = [sys.executable, "-m", *arguments]
        self._environment = environment
        self._starts = 0
        self._process: GuardedProcess | None = None

    def launch(self) -> None:
        """Starts the process without waiting for it to be of use."""
        self._starts += 1
        log = self._folder / f"{self.name}-{self._starts}.log"
        self._process = GuardedProcess(self.command, self._folder, log, self._environment)

    async def kill(self) -> None:
        """Ends the process by SIGKILL, as a crash would."""
        await uninterrupted(self._running().kill)
        self._process = None

    async def stop(self) -> None:
        """Ends the process; does nothing when none runs."""
        process, self._process = self._process, None
        if process is not None:
            await uninterrupted(process.stop)

    def log(self) -> str:
        """What all starts wrote."""
        logs = (self._folder / f"{self.name}-{n}.log" for n in range(1, self._starts + 1))
        return "".join(log.read_text(errors="replace") for log in logs)

    def log_tail(self) -> str:
        """The end of what the last start wrote."""
        return self._process.log_tail() if self._process is not None else ""

    def ended(self) -> bool:
        """Whether the process has ended by itself."""
        return self._process is not None and self._process.exited()

    def check(self) -> None:
        """Raises StackError when the process has ended by itself."""
        if self.ended():
            raise StackError(f"The {self.name} ended. Its log ends:\n{self.log_tail()}")

    def _running(self) -> GuardedProcess:
        if self._process is None:
            raise RuntimeError(f"The {self.name} does not run; call start first.")
        return self._process


async def uninterrupted(work: Callable[[], Result]) -> Result:
    """Runs blocking ``work`` in a thread, to its end even when cancelled meanwhile: what it starts
    or stops must be known to be started or stopped."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
