"""The end of a pack: what waits is served or refused, and what runs is finished."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from slm_worker.replicas.fleet import Fleet
from slm_worker.routing.router import Router, RouterError

SERVE_ON_EXIT_SECONDS = 10.0
"""How long a pack that ends still serves whoever asks: what waits at its router, and clients on
connections that they had before."""
DRAIN_ON_EXIT_SECONDS = 25.0
"""From then to the end of requests in flight, the time before included."""
POLL_SECONDS = 0.25

log = logging.getLogger(__name__)


async def drain(
    fleet: Fleet, router: Router, *, clock: Callable[[], float], ticked: Callable[[], None]
) -> None:
    """Serves until nobody asks any more, then takes no connections and lets requests end.

    A connection that is refused then costs its client nothing: it may try elsewhere. ``ticked`` is
    called as long as this makes progress. Never raises: a router that does not answer has nothing
    to drain.
    """
    began_seconds = clock()
    try:
        while True:
            ticked()
            stats = await router.stats()
            waited_seconds = clock() - began_seconds
            asking = sum(stats.in_flight.values()) + stats.queued
            if not asking or waited_seconds >= SERVE_ON_EXIT_SECONDS:
                break
            await asyncio.sleep(POLL_SECONDS)
        if stats.queued:
            await fleet.drain_all()
            await router.refuse_held()
    except RouterError as error:
        log.warning("ending without a drain: %s", error)
        return
    if not await router.finish(DRAIN_ON_EXIT_SECONDS - waited_seconds):
        log.warning("requests are cut: not answered %g s after the end", DRAIN_ON_EXIT_SECONDS)
