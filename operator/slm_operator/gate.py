"""How many passes run at a time, without one that waits for somebody slow holding up others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

AT_A_TIME = 64
"""Few enough that each has done soon, and twice what a thousand services need that are looked at
every 15 s where each pass outlasts the patience: fewer would be a bound on them all."""
PATIENCE_SECONDS = 0.5
"""With a service's own agents, which answer within milliseconds. With a thousand services whose
agents are all dead, the last one has its first turn after 8 s."""
LONGEST_SECONDS = 5.0
"""With all else, which is the API server. When the operator starts, each of so many passes waits
for the writes of the others; were more let in meanwhile, all services' objects would be in the
memory at once, and it would keep their room."""


@dataclass
class Turn:
    """One stay inside the gate."""

    lose_patience: Callable[[], None]
    patience_seconds: float
    counts: bool = True
    overstayed: bool = False


_turn: ContextVar[Turn | None] = ContextVar("_turn", default=None)


class Gate:
    """Admits so many at a time, in the order in which they come. Those who start together, such as
    all services when the operator does, have each done before the next begins, instead of all
    waiting for all.

    Whoever stays for longer than the patience no longer counts, and should come by the slow lane
    from then on, until a turn was quick again: there the slow wait for each other alone.
    """

    def __init__(
        self,
        at_a_time: int = AT_A_TIME,
        patience_seconds: float = PATIENCE_SECONDS,
        longest_seconds: float = LONGEST_SECONDS,
    ) -> None:
        self._quick, self._slow = asyncio.Semaphore(at_a_time), asyncio.Semaphore(at_a_time)
        self._patience_seconds, self._longest_seconds = patience_seconds, longest_seconds
        self.waiting = 0
        """For their turn, in both lanes."""

    @asynccontextmanager
    async def turn(self, slow: bool = False) -> AsyncIterator[Turn]:
        """The turn tells, when it is over, whether the next one is by the slow lane."""
        lane = self._slow if slow else self._quick
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

        turn = Turn(lose_patience, self._patience_seconds)
        longest = asyncio.get_running_loop().call_later(self._longest_seconds, lose_patience)
        before = _turn.set(turn)
        try:
            yield turn
        finally:
            _turn.reset(before)
            longest.cancel()
            leave()


@contextmanager
def waiting_for_others() -> Iterator[None]:
    """What is waited for within it is up to one service alone: its turn loses patience soon."""
    turn = _turn.get()
    if turn is None:
        yield
        return
    soon = asyncio.get_running_loop().call_later(turn.patience_seconds, turn.lose_patience)
    try:
        yield
    finally:
        soon.cancel()
