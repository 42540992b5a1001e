"""PURE: whether an engine that starts still comes forward, by what it writes.

A first start may download a model for an hour and is well; another hangs in its first minute. Their
clocks do not tell them apart, but their output does: an engine that starts has something new to
say. A line that only repeats an earlier one ("still waiting") is not new.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

REMEMBERED_LINES = 256
MAX_QUOTED_CHARACTERS = 300

_STAMP = re.compile(
    r"\b\d{2,4}-\d{2}(-\d{2})?\b|\b\d{1,2}:\d{2}:\d{2}([.,]\d+)?\b|\bpid[= ]\d+\b", re.IGNORECASE
)
"""Times and process ids, which make the same words look new."""


@dataclass(frozen=True)
class StartDeadlines:
    silent_seconds: float = 600.0
    """Longest time without a new line. Compiling a model's kernels is silent for minutes."""
    total_seconds: float = 7200.0
    """Longest start, however much it writes: 15 GB at 2 MB/s."""


@dataclass(frozen=True)
class Overdue:
    """A start that is given up. ``reason``: StartStalled or StartTimeout."""

    reason: str
    message: str


class StartProgress:
    """Watches one start. ``now_seconds`` are of the agent's monotonic clock."""

    def __init__(self, deadlines: StartDeadlines, now_seconds: float) -> None:
        self._deadlines = deadlines
        self._began_seconds = self._new_at_seconds = now_seconds
        self._known: deque[str] = deque(maxlen=REMEMBERED_LINES)
        self._last = ""

    def said(self, line: str, now_seconds: float) -> None:
        """One line of output, or a progress bar as it is now."""
        text = _STAMP.sub("", line).strip()
        if not text:
            return
        self._last = line.strip()
        if text not in self._known:
            self._known.append(text)
            self._new_at_seconds = now_seconds

    def overdue(self, now_seconds: float) -> Overdue | None:
        last = self._last[:MAX_QUOTED_CHARACTERS] or "none at all"
        silent_seconds = now_seconds - self._new_at_seconds
        if silent_seconds >= self._deadlines.silent_seconds:
            return Overdue(
                "StartStalled",
                f"the engine wrote nothing new for {silent_seconds:.0f} s of its start; its last "
                f"line: {last}. It was ended and starts again; the pack's log has all it wrote",
            )
        started_seconds = now_seconds - self._began_seconds
        if started_seconds >= self._deadlines.total_seconds:
            return Overdue(
                "StartTimeout",
                f"the engine was not ready after {started_seconds:.0f} s, although it went on; its "
                f"last line: {last}. Shorten its start: serve the model from a volume (file://)",
            )
        return None
