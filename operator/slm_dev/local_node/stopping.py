"""A request to end something by a deadline."""

import asyncio


class StopRequest:
    """Made at most once in effect; a later request may only bring the deadline nearer.

    `requested` and `expired` are events to wait on.
    """

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.expired = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def request(self, grace_seconds: float) -> None:
        """Asks for an end within the given time from now."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_seconds
        self.requested.set()
        if self._timer is not None:
            if deadline >= self._timer.when():
                return
            self._timer.cancel()
        self._timer = loop.call_at(deadline, self.expired.set)

    def remaining_seconds(self) -> float:
        """The time to the deadline of a stop that was requested."""
        assert self._timer is not None  # noqa: S101
        return max(0, self._timer.when() - asyncio.get_running_loop().time())

    def dispose(self) -> None:
        """Forgets the deadline."""
        if self._timer is not None:
            self._timer.cancel()
