"""A wall clock that jumps, for chosen processes: the machine's own is left alone."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_name("clock_shim.c")


class JumpingClock:
    """Builds the shim into ``folder`` with the system's C compiler. Raises CalledProcessError."""

    def __init__(self, folder: Path) -> None:
        self._shift = folder / "clock"
        self._library = folder / "clock_shim.so"
        self.jump_to(0)
        command = ["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror"]
        subprocess.run([*command, "-o", self._library, _SOURCE, "-ldl"], check=True)

    @property
    def environment(self) -> dict[str, str]:
        """What puts a process, and all that it starts, on this clock."""
        return {"LD_PRELOAD": str(self._library), "BENCH_CLOCK_FILE": str(self._shift)}

    def jump_to(self, shift_seconds: int) -> None:
        """From now on the processes read a wall clock that is so far ahead, or behind."""
        # Written in place: the processes have mapped this very file.
        with self._shift.open("r+b" if self._shift.exists() else "wb") as file:
            file.write(struct.pack("=q", shift_seconds))
