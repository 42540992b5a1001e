"""Waits for what is to become true."""

import time
from collections.abc import Callable

_POLL_SECONDS = 0.2


class WaitError(RuntimeError):
    """Something did not come true in time."""


def until(what: str, check: Callable[[], str], timeout_seconds: float) -> None:
    """Ask `check` again and again until it returns the empty text; else it says what is missing.

    Raises:
        WaitError: that took longer than `timeout_seconds`.
    """
    deadline = time.monotonic() + timeout_seconds
    while missing := check():
        if time.monotonic() > deadline:
            raise WaitError(f"{what} took over {timeout_seconds:.0f} s: {missing}")
        time.sleep(_POLL_SECONDS)
