"""Follows the log files of the MPS daemon and its servers."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

SERVER_LOG = "server.log"
MAX_READ_BYTES = 256 * 1024
"""Of each file at a time; what a burst writes beyond it is read the next time."""
MAX_FILE_BYTES = 8 * 1024 * 1024
"""Each command leaves lines in control.log, some megabytes a day, and nobody rotates it."""


@dataclass(frozen=True)
class NewLines:
    """What was written since the last reading."""

    lines: tuple[str, ...] = ()
    by_servers: bool = False
    """Whether a server wrote something: its clients changed, or it is in trouble."""


class LogFollower:
    """Reads what is added to ``*.log`` below a directory, where each server may have its own.

    All methods block for as long as the disk does.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._offsets: dict[Path, int] = {}

    def skip(self) -> None:
        """Takes all that is there for read."""
        for path in self._files():
            with contextlib.suppress(OSError):
                self._offsets[path] = path.stat().st_size

    def new_lines(self) -> NewLines:
        """Whole lines since the last call. A file that cannot be read has none."""
        lines: list[str] = []
        by_servers = False
        for path in self._files():
            with contextlib.suppress(OSError):
                added = self._read(path)
                lines += added
                by_servers |= bool(added) and path.name == SERVER_LOG
        return NewLines(tuple(lines), by_servers)

    def _files(self) -> list[Path]:
        """Those of servers first: what they say of a fault tells more than the daemon's word."""
        found = [*self._directory.glob("*.log"), *self._directory.glob("*/*.log")]
        return sorted(found, key=lambda path: (path.name != SERVER_LOG, path))

    def _read(self, path: Path) -> list[str]:
        size_bytes = path.stat().st_size
        offset = self._offsets.get(path, 0)
        if size_bytes < offset:
            offset = 0  # it was cut or begun anew
        if size_bytes == offset:
            self._offsets[path] = offset
            return []
        with path.open("r+b") as file:
            file.seek(offset)
            chunk = file.read(MAX_READ_BYTES)
            end = chunk.rfind(b"\n") + 1
            if end == 0 and len(chunk) == MAX_READ_BYTES:
                end = len(chunk)  # no line is that long: nothing to wait for
            self._offsets[path] = offset + end
            if offset + end == size_bytes and size_bytes > MAX_FILE_BYTES:
                file.truncate(0)
                self._offsets[path] = 0
        return chunk[:end].decode(errors="replace").splitlines()
