"""PURE: how many requests may wait, and how large they may be together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Room:
    """Counts what waits. One room may be a part of another, in which all of them have to fit."""

    max_requests: int | None
    """None: no limit of its own."""
    max_bytes: int
    """Of the requests' bodies."""
    part_of: Room | None = None
    requests: int = 0
    bytes: int = 0

    def enter(self, body_bytes: int) -> bool:
        """Whether a request with such a body may wait; it is counted when it may."""
        if not self._fits(body_bytes):
            return False
        self.enter_again(body_bytes)
        return True

    def enter_again(self, body_bytes: int) -> None:
        """For one that was let in before: it is not refused any more."""
        self.requests += 1
        self.bytes += body_bytes
        if self.part_of is not None:
            self.part_of.enter_again(body_bytes)

    def leave(self, body_bytes: int) -> None:
        self.requests -= 1
        self.bytes -= body_bytes
        if self.part_of is not None:
            self.part_of.leave(body_bytes)

    def _fits(self, body_bytes: int) -> bool:
        few = self.max_requests is None or self.requests < self.max_requests
        small = self.bytes + body_bytes <= self.max_bytes
        return few and small and (self.part_of is None or self.part_of._fits(body_bytes))
