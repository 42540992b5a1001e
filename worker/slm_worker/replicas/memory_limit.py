"""Processes that the kernel ended for lack of the host's memory, as the container's control group
counts them: the signal alone does not tell who sent it."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from pathlib import Path

_HIERARCHY = Path("/sys/fs/cgroup")
"""Where a container finds its own control group."""
_COUNTS = ("memory.events", "memory/memory.oom_control")
_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
"""Of version 2, then of version 1."""
_UNLIMITED_BYTES = 2**62
"""Version 1 gives the largest multiple of a page below 2^63 where no limit is set."""


RECENT_SECONDS = 30.0
"""An engine that lost a process ends within seconds. One that serves on (what was killed compiled a
kernel, or was somebody's shell) ends of something else, later."""


class MemoryLimit:
    """The container's. Where nothing counts, no kill is known. Never raises."""

    def __init__(
        self, hierarchy: Path = _HIERARCHY, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._hierarchy = hierarchy
        self._clock = clock
        self._seen = self._kills()
        self._killed_at_seconds: float | None = None
        """When a kill was seen of which nothing was said yet."""

    def look(self) -> None:
        """To be called now and then, so that it is known when a process was killed."""
        before = self._seen
        # Where the count cannot be read it looks like none.
        self._seen = max(before, self._kills())
        if self._seen > before:
            self._killed_at_seconds = self._clock()

    def killed(self) -> str:
        """What to say of a process that has just ended, if the kernel ended one for lack of memory
        shortly before, and this was not asked since; else empty."""
        self.look()
        killed_at_seconds, self._killed_at_seconds = self._killed_at_seconds, None
        if killed_at_seconds is None or self._clock() - killed_at_seconds > RECENT_SECONDS:
            return ""
        limit_bytes = self._limit_bytes()
        if limit_bytes is None:
            return (
                "the kernel ended it because the node had no memory left: give the pack "
                "spec.podTemplate.resources.requests.memory, or plan fewer replicas"
            )
        return (
            f"the kernel ended it because the container reached its memory limit of "
            f"{limit_bytes:,} bytes: raise spec.podTemplate.resources.limits.memory, or plan fewer "
            "replicas"
        )

    def _kills(self) -> int:
        found = re.search(r"^oom_kill (\d+)$", self._first_of(_COUNTS), re.MULTILINE)
        return int(found[1]) if found else 0

    def _limit_bytes(self) -> int | None:
        text = self._first_of(_LIMITS).strip()
        limit_bytes = int(text) if text.isdecimal() else _UNLIMITED_BYTES
        return limit_bytes if limit_bytes < _UNLIMITED_BYTES else None

    def _first_of(self, names: tuple[str, ...]) -> str:
        for name in names:
            with contextlib.suppress(OSError):
                return (self._hierarchy / name).read_text()
        return ""
