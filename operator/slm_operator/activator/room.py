"""PURE: how many requests may wait or be sent at a time, and how large bodies may be together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Room:
    """Counts what waits, and the bodies that are in the memory, which are also those of requests
    that a pack is taking. One room may be a part of another, in which all of them have to fit."""

    max_requests: int | None
    """None: no limit of its own."""
    max_bytes: int
    """Of the requests' bodies."""
    max_senders: int
    """Each has its headers and its connection in the memory, which no other bound counts."""
    part_of: Room | None = None
    requests: int = 0
    bytes: int = 0
    senders: int = 0

    def fits(self, body_bytes: int) -> bool:
        """Whether one more request with such a body could wait now. Nothing is counted: what is
        only announced takes no room."""
        return self._is_free() and self._has_bytes(body_bytes)

    def send(self) -> bool:
        """Whether one more client may send its body; it is counted when it may."""
        if not self._takes_sender():
            return False
        self._add_senders(1)
        return True

    def sent(self) -> None:
        self._add_senders(-1)

    def keep(self, body_bytes: int) -> bool:
        """Whether so much of a body may be in the memory; it is counted when it may."""
        if not self._has_bytes(body_bytes):
            return False
        self._add(body_bytes)
        return True

    def enter(self) -> bool:
        """Whether a request whose body is here may wait; it is counted when it may."""
        if not self._is_free():
            return False
        self.wait_again()
        return True

    def wait_again(self) -> None:
        """One that was let in before, and whose body is still here: it is not refused any more."""
        self.requests += 1
        if self.part_of is not None:
            self.part_of.wait_again()

    def wait_no_longer(self) -> None:
        self.requests -= 1
        if self.part_of is not None:
            self.part_of.wait_no_longer()

    def drop(self, body_bytes: int) -> None:
        """The body is no longer in the memory."""
        self._add(-body_bytes)

    def _add(self, body_bytes: int) -> None:
        self.bytes += body_bytes
        if self.part_of is not None:
            self.part_of._add(body_bytes)

    def _add_senders(self, senders: int) -> None:
        self.senders += senders
        if self.part_of is not None:
            self.part_of._add_senders(senders)

    def _takes_sender(self) -> bool:
        few = self.senders < self.max_senders
        return few and (self.part_of is None or self.part_of._takes_sender())

    def _is_free(self) -> bool:
        few = self.max_requests is None or self.requests < self.max_requests
        return few and (self.part_of is None or self.part_of._is_free())

    def _has_bytes(self, body_bytes: int) -> bool:
        small = self.bytes + body_bytes <= self.max_bytes
        return small and (self.part_of is None or self.part_of._has_bytes(body_bytes))
