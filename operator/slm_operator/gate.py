"""How many passes run at a time, without one that waits for somebody slow holding up others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

AT_A_TIME = 64
"""Few enough that each has done soon, and twice what a thousand services need that are looked at
every 15 s where each pass outlasts the patience: fewer would be a bound on them all."""
PATIENCE_SECONDS = 0.5
"""A pass takes some milliseconds of work; what takes longer waits for an agent or the API server.
With a thousand services whose agents are all dead, the last one has its first turn after 8 s."""


@dataclass
class Turn:
    """One stay inside the gate."""

    counts: bool = True
    overstayed: bool = False


class Gate:
    """Admits so many at a time, in the order in which they come. Those who start together, such as
    all services when the operator does, have each done before the next begins, instead of all
    waiting for all.

    Whoever stays for longer than the patience no longer counts, and should come by the slow lane
    from then on, until a turn was quick again: there the slow wait for each other alone.
    """

    def __init__(
        self, at_a_time: int = AT_A_TIME, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._quick, self._slow = asyncio.Semaphore(at_a_time), asyncio.Semaphore(at_a_time)
        self._patience_seconds = patience_seconds
        self.waiting = 0
        """For their turn, in both lanes."""

    @asynccontextmanager
    async def turn(self, slow: bool = False) -> AsyncIterator[Turn]:
        """The turn tells, when it is over, whether the next one is by the slow lane."""
        lane, turn = self._slow if slow else self._quick, Turn()
        self.waiting += 1
        try:
            await lane.acquire()
        finally:
            self.waiting -= 1

        def leave() -> None:
            if turn.counts:
                turn.counts = False
                lane.release()

        def lose_patience() -> None:
            turn.overstayed = True
            leave()

        patience = asyncio.get_running_loop().call_later(self._patience_seconds, lose_patience)
        try:
            yield turn
        finally:
            patience.cancel()
            leave()
