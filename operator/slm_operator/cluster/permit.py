"""Whether this process may write: of several operators only the one that holds the lease, and only
while it has time to spare."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp

from slm_worker.wire import LEADER_EPOCH_HEADER

READING = ("GET", "HEAD", "OPTIONS")


class NotLeadingError(aiohttp.ClientConnectionError):
    """Nothing was sent, since this process may not write."""

    def __init__(self) -> None:
        super().__init__("this operator does not hold the lease, so it sends nothing")


def boottime() -> float:
    """Seconds of a clock that goes on while the process is stopped and while the host sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Permit:
    """Each write asks it right before it is sent, and is given up when the permit ends first."""

    def __init__(self, clock: Callable[[], float] = boottime) -> None:
        self._clock = clock
        self._ends_at_seconds = -math.inf
        self.epoch = 0
        """Of this leadership; greater than that of each before. 0: none."""

    @classmethod
    def unlimited(cls) -> Permit:
        """Of an operator that is alone."""
        permit = cls()
        permit.extend(math.inf, epoch=0)
        return permit

    def extend(self, ends_at_seconds: float, epoch: int) -> None:
        self._ends_at_seconds, self.epoch = ends_at_seconds, epoch

    def end(self) -> None:
        self._ends_at_seconds = -math.inf

    @property
    def holds(self) -> bool:
        return self._clock() < self._ends_at_seconds

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Around the sending of one write. Raises NotLeadingError, or TimeoutError when the permit
        ends meanwhile."""
        left = self._ends_at_seconds - self._clock()
        if left <= 0:
            raise NotLeadingError
        async with asyncio.timeout(None if math.isinf(left) else left):
            yield

    async def fence(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """An aiohttp middleware: holds back what would write, and names the leadership."""
        if self.epoch:
            request.headers[LEADER_EPOCH_HEADER] = str(self.epoch)
        if request.method in READING:
            return await handler(request)
        async with self.writing():
            return await handler(request)
