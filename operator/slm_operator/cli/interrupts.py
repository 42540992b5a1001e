"""Ctrl-C and SIGTERM end what a command runs, once and in order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):  # noqa: N818 - it says what happened
    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"ended by {number.name}")
        self.number = number


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Lets either signal end blocking work by Interrupted."""

    def interrupt(number: int, _: object) -> None:
        raise Interrupted(signal.Signals(number))

    before = {n: signal.signal(n, interrupt) for n in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def until_interrupted(work: Awaitable[None]) -> None:
    """Cancels ``work`` at the first signal, lets it clean up, and raises Interrupted."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101
    received: list[signal.Signals] = []

    def interrupt(number: signal.Signals) -> None:
        # Once is enough: a second one must not break off the taking down.
        if not received:
            received.append(number)
            task.cancel()

    for number in SIGNALS:
        loop.add_signal_handler(number, interrupt, number)
    try:
        await work
    except asyncio.CancelledError:
        if not received:
            raise
        raise Interrupted(received[0]) from None
