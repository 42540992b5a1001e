"""How many passes run at a time, without one that waits for somebody slow holding up others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum

AT_A_TIME = 64
"""Few enough that each has done soon, and twice what a thousand services need that are looked at
every 15 s where each pass outlasts the patience: fewer would be a bound on them all."""
ROUTINE_AT_A_TIME = 8
"""Each of these may do a step of its own between two steps of what has news. One that waits for
nobody has done within some 20 ms, so this is several times what a thousand services need."""
PATIENCE_SECONDS = 0.5
"""With a service's own agents, which answer within milliseconds. With a thousand services whose
agents are all dead, the last one has its first turn after 8 s."""
ROUTINE_PATIENCE_SECONDS = 0.05
"""Until one of those few makes room. That is no slow one yet: so long may an answer lie unread when
there is much to do."""
LONGEST_SECONDS = 5.0
"""With all else, which is the API server. When the operator starts, each of so many passes waits
for the writes of the others; were more let in meanwhile, all services' objects would be in the
memory at once, and it would keep their room."""


class Lane(Enum):
    NEWS = "news"
    """Something has changed."""
    ROUTINE = "routine"
    """It is only looked at again."""
    SLOW = "slow"
    """The last look waited for somebody: such wait for each other alone."""


@dataclass
class Turn:
    """One stay inside the gate."""

    leave: Callable[[], None]
    leaves_after_seconds: float
    patience_seconds: float
    overstayed: bool = False


_turn: ContextVar[Turn | None] = ContextVar("_turn", default=None)


class Gate:
    """Admits so many at a time in each lane, in the order in which they come. Those who start
    together, such as all services when the operator does, have each done before the next begins,
    instead of all waiting for all.

    Whoever stays for longer than the patience no longer counts.
    """

    def __init__(
        self,
        at_a_time: int = AT_A_TIME,
        routine_at_a_time: int = ROUTINE_AT_A_TIME,
        patience_seconds: float = PATIENCE_SECONDS,
        longest_seconds: float = LONGEST_SECONDS,
    ) -> None:
        self._lanes = {
            Lane.NEWS: asyncio.Semaphore(at_a_time),
            Lane.ROUTINE: asyncio.Semaphore(routine_at_a_time),
            Lane.SLOW: asyncio.Semaphore(at_a_time),
        }
        self._patience_seconds, self._longest_seconds = patience_seconds, longest_seconds
        self.waiting = 0
        """For their turn, in all lanes."""

    @asynccontextmanager
    async def turn(
        self, by: Lane = Lane.NEWS, news: asyncio.Event | None = None
    ) -> AsyncIterator[Turn]:
        """``news``: who hears it while it waits in another lane goes to that of NEWS. The turn
        tells, when it is over, whether it was a slow one."""
        self.waiting += 1
        try:
            by = await self._enter(by, news)
        finally:
            self.waiting -= 1
        lane, patience_seconds = self._lanes[by], self._patience_seconds
        inside = True

        def leave() -> None:
            nonlocal inside
            if inside:
                inside = False
                lane.release()

        def overstay() -> None:
            turn.overstayed = True
            leave()

        soon = ROUTINE_PATIENCE_SECONDS if by is Lane.ROUTINE else patience_seconds
        turn = Turn(leave, min(soon, patience_seconds), patience_seconds)
        longest = asyncio.get_running_loop().call_later(self._longest_seconds, overstay)
        before = _turn.set(turn)
        try:
            yield turn
        finally:
            _turn.reset(before)
            longest.cancel()
            leave()

    async def _enter(self, by: Lane, news: asyncio.Event | None) -> Lane:
        """The lane in which there was a place."""
        lane = self._lanes[by]
        if by is Lane.NEWS or news is None or not lane.locked():
            await lane.acquire()
            return by
        place, heard = asyncio.ensure_future(lane.acquire()), asyncio.ensure_future(news.wait())
        try:
            await asyncio.wait((place, heard), return_when=asyncio.FIRST_COMPLETED)
            if place.done():
                return by
        except asyncio.CancelledError:
            if place.done():
                lane.release()
            raise
        finally:
            place.cancel()
            heard.cancel()
        await self._lanes[Lane.NEWS].acquire()
        return Lane.NEWS


@contextmanager
def waiting_for_others() -> Iterator[None]:
    """What is waited for within it is up to one service alone: its turn makes room soon."""
    turn = _turn.get()
    if turn is None:
        yield
        return
    loop = asyncio.get_running_loop()
    began = loop.time()
    leaving = loop.call_later(turn.leaves_after_seconds, turn.leave)
    try:
        yield
    finally:
        leaving.cancel()
        if loop.time() - began >= turn.patience_seconds:
            turn.overstayed = True
