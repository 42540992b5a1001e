"""Values with their times, for rules that look back over a window."""

from __future__ import annotations

from collections import deque


class Recent:
    """Remembers values for ``keep_seconds``."""

    def __init__(self, keep_seconds: float) -> None:
        self._keep_seconds = keep_seconds
        self._entries: deque[tuple[float, float]] = deque()

    def add(self, now_seconds: float, value: float) -> None:
        self._entries.append((now_seconds, value))
        while self._entries and self._entries[0][0] <= now_seconds - self._keep_seconds:
            self._entries.popleft()

    def within(self, now_seconds: float, seconds: float) -> list[float]:
        """Values younger than ``seconds``, oldest first; one exactly that old is out."""
        return [value for at, value in self._entries if at > now_seconds - seconds]

    def kept(self) -> list[float]:
        """All values that were not yet too old when the last one came."""
        return [value for _, value in self._entries]
