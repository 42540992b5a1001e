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
ASK_ON_EXIT_SECONDS = 15.0
"""How long a router that does not answer the agent is asked again: it may work on all the same."""
DRAIN_ON_EXIT_SECONDS = 25.0
"""From then to the end of requests in flight, the time before included."""
POLL_SECONDS = 0.25

log = logging.getLogger(__name__)


async def drain(
    fleet: Fleet, router: Router, *, clock: Callable[[], float], ticked: Callable[[], None]
) -> None:
    """Serves until nobody asks any more, then takes no connections and lets requests end.

    A connection that is refused then costs its client nothing: it may try elsewhere. ``ticked`` is
    called as long as this makes progress. Never raises: whatever the router does not answer, what
    it works on gets its time.
    """
    began_seconds = clock()
    while router.alive:
        ticked()
        try:
            if await _is_served(fleet, router, clock() - began_seconds):
                break
        except RouterError as error:
            log.warning("the router does not answer at the pack's end: %s", error)
            if clock() - began_seconds >= ASK_ON_EXIT_SECONDS:
                break
        await asyncio.sleep(POLL_SECONDS)
    if not await router.finish(DRAIN_ON_EXIT_SECONDS - (clock() - began_seconds)):
        log.warning("requests are cut: not answered %g s after the end", DRAIN_ON_EXIT_SECONDS)


async def _is_served(fleet: Fleet, router: Router, waited_seconds: float) -> bool:
    """Whether nobody asks, or has asked for long enough: what waits then is refused. Raises
    RouterError."""
    stats = await router.stats()
    asking = stats.queued + sum(stats.in_flight.values())
    if asking and waited_seconds < SERVE_ON_EXIT_SECONDS:
        return False
    if stats.queued:
        await fleet.drain_all()
        await router.refuse_held()
    return True
