"""Logs as JSON lines on standard output, written so that nobody ever waits for them.

Standard output may block (a node's log reader that stands still), be full (ENOSPC), or be gone
(EPIPE). Neither the agent's loop nor an engine, whose pipe the agent empties, may stop for that: a
thread writes, what it cannot write in time is dropped, and the log says how much, once it can.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

MAX_TEXT_CHARACTERS = 16 * 1024
"""Of one message or traceback."""
MAX_WAITING_BYTES = 4 * 2**20
STANDARD_OUTPUT = 1
END_SECONDS = 2.0
"""How long the last lines may take when the process ends."""


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, and the replica that it is about."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:MAX_TEXT_CHARACTERS],
        }
        replica = getattr(record, "replica", None)
        if replica is not None:
            line["replica"] = int(replica)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)[-MAX_TEXT_CHARACTERS:]
        return json.dumps(line, ensure_ascii=False)


class BoundedHandler(logging.Handler):
    """Hands lines to a thread. ``write`` is its own: it may block, and may raise OSError."""

    def __init__(
        self, write: Callable[[bytes], None], max_waiting_bytes: int = MAX_WAITING_BYTES
    ) -> None:
        super().__init__()
        self._write = write
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._lost = 0
        self._busy = False
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="log writer", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record).encode(errors="replace") + b"\n"
        with self._changed:
            if self._waiting_bytes + len(line) > self._max_waiting_bytes:
                self._lost += 1
                return
            self._waiting.append(line)
            self._waiting_bytes += len(line)
            self._changed.notify_all()

    def flush(self) -> None:
        """Waits until everything is written, or lost, but no longer than END_SECONDS."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._waiting or self._busy), END_SECONDS)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
                line = self._waiting.popleft()
                self._waiting_bytes -= len(line)
                lost, self._lost = self._lost, 0
                self._busy = True
            failed = self._try(self._lost_line(lost) + line if lost else line)
            with self._changed:
                self._lost += lost + 1 if failed else 0
                self._busy = False
                self._changed.notify_all()

    def _try(self, lines: bytes) -> bool:
        """Answers whether it failed."""
        try:
            self._write(lines)
        except OSError:
            return True
        return False

    def _lost_line(self, lost: int) -> bytes:
        record = logging.LogRecord(
            __name__,
            logging.WARNING,
            __file__,
            0,
            "%d log lines were lost: standard output did not take them",
            (lost,),
            None,
        )
        return self.format(record).encode() + b"\n"


def configure_logs() -> None:
    handler = BoundedHandler(_to_standard_output)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # One line for each poll of the operator would bury the rest.
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


def _to_standard_output(lines: bytes) -> None:
    rest = memoryview(lines)
    while rest:
        rest = rest[os.write(STANDARD_OUTPUT, rest) :]
