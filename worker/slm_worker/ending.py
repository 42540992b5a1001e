"""The end of a pack: what waits is served or refused, and what runs is finished."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from slm_worker.replicas.fleet import Fleet
from slm_worker.routing.router import Router, RouterError

QUEUE_ON_EXIT_SECONDS = 10.0
"""How long a pack that ends still serves what waits at its router."""
DRAIN_ON_EXIT_SECONDS = 25.0
"""From then to the end of requests in flight, the queue's time included."""
POLL_SECONDS = 0.25

log = logging.getLogger(__name__)


async def drain(
    fleet: Fleet, router: Router, *, clock: Callable[[], float], ticked: Callable[[], None]
) -> None:
    """Lets requests end; what waits at the router still finds its replica, or is refused.

    ``ticked`` is called as long as this makes progress. Never raises: a router that does not
    answer has nothing to drain.
    """
    began_seconds = clock()
    drained = False
    try:
        while True:
            ticked()
            stats = await router.stats()
            waited_seconds = clock() - began_seconds
            in_flight = sum(stats.in_flight.values())
            over = in_flight + stats.queued == 0 or waited_seconds >= DRAIN_ON_EXIT_SECONDS
            if drained and over:
                break
            if not drained and (stats.queued == 0 or waited_seconds >= QUEUE_ON_EXIT_SECONDS):
                await fleet.drain_all()
                await router.refuse_held()
                drained = True
            await asyncio.sleep(POLL_SECONDS)
    except RouterError as error:
        log.warning("ending without a drain: %s", error)
        return
    if in_flight or stats.queued:
        log.warning("%d requests are cut, %d were waiting", in_flight, stats.queued)
