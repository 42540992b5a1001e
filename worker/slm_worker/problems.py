"""What stands in the way now, since when, and how often in a row."""

from __future__ import annotations

import logging
from collections.abc import Callable

from slm_worker.replicas.health import backoff_seconds
from slm_worker.wire import Problem

log = logging.getLogger(__name__)


class ProblemLog:
    """The present problem of one part of the agent; logged when it begins, changes or ends."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.current: Problem | None = None
        self.failures = 0
        self.retry_at_seconds = 0.0

    def report(self, reason: str, message: str) -> None:
        now_seconds = self._clock()
        before = self.current
        since_seconds = now_seconds
        if before is not None and before.reason == reason:
            since_seconds = before.since_seconds
        if before is None or (before.reason, before.message) != (reason, message):
            log.error("%s: %s", reason, message)
        self.current = Problem(reason=reason, message=message, since_seconds=since_seconds)
        self.failures += 1
        self.retry_at_seconds = now_seconds + backoff_seconds(self.failures)

    def clear(self) -> None:
        if self.current is not None:
            log.info("%s is over", self.current.reason)
        self.current = None
        self.failures = 0
