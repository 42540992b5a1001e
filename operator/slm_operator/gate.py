"""How many passes run at a time, without one that waits for somebody slow holding up others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

AT_A_TIME = 32
"""Enough to keep one core and the API server busy, few enough that each has done soon."""
PATIENCE_SECONDS = 0.5
"""A pass takes some milliseconds of work; what takes longer waits for an agent or the API server.
With a thousand services whose agents are all dead, the last one has its turn after 16 s."""


class Gate:
    """Admits so many at a time, in the order in which they come; whoever stays for longer than
    the patience no longer counts. Those who start together, such as all services when the operator
    does, have each done before the next begins, instead of all waiting for all."""

    def __init__(
        self, at_a_time: int = AT_A_TIME, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._free = asyncio.Semaphore(at_a_time)
        self._patience_seconds = patience_seconds

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        await self._free.acquire()
        counts = True

        def leave() -> None:
            nonlocal counts
            if counts:
                counts = False
                self._free.release()

        patience = asyncio.get_running_loop().call_later(self._patience_seconds, leave)
        try:
            yield
        finally:
            patience.cancel()
            leave()
