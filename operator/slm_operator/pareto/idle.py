"""When a service without requests goes to zero packs, and what brings the first one back.

To zero only on evidence: at every look of a whole stabilisation period nothing was in flight, and
nothing had arrived since the look before. One look is one moment, but what arrived is counted
without gaps, so that a late look misses nothing, unless the one who counts began anew: then
requests may have come and gone unseen. Back at once, for a single request that waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ZeroRule = Literal["NoRequests", "RequestsHeld", "CannotHold"]


@dataclass(frozen=True)
class Look:
    """What was seen of a whole service at one moment, its activator included."""

    at_seconds: float
    arrived: int
    """Requests since counting began."""
    in_flight: int
    restarts: int = 0
    """Of those who count."""


@dataclass(frozen=True)
class Idle:
    """What is remembered between looks; losing it costs one stabilisation period."""

    since_seconds: float | None = None
    """The first of the unbroken looks at which there was nothing; None: the last one saw some."""
    arrived: int | None = None
    """At the last look, as the next."""
    restarts: int = 0


@dataclass(frozen=True)
class Holding:
    """Whether requests would wait, if there were no pack."""

    held: int = 0
    """Requests that are at the activator now."""
    now: bool = True
    """The activator has just answered, and knows the service."""
    lastingly: bool = True
    """It has within its patience; a moment's silence starts no pack."""


@dataclass(frozen=True)
class Zero:
    """Whether there shall be no pack."""

    packs: int | None
    """None: as many as demand takes."""
    rule: ZeroRule | None = None
    """What changed the number in this look."""


def seen(idle: Idle, look: Look | None) -> Idle:
    """With ``look``; None: it could not be told, which is no sign of anything."""
    if look is None:
        return idle
    counts = (look.arrived, look.restarts)
    nothing_came = idle.arrived is None or (idle.arrived, idle.restarts) == counts
    if look.in_flight or not nothing_came:
        return Idle(None, *counts)
    since = look.at_seconds if idle.since_seconds is None else idle.since_seconds
    return Idle(since, *counts)


def decide_zero(
    packs: int,
    idle: Idle,
    look: Look | None,
    holding: Holding,
    stabilization_seconds: float,
    may_end: bool,
) -> Zero:
    """What ``idle``, which ``look`` is in, means for ``packs`` packs. ``may_end``: nothing else,
    such as a measurement, needs one."""
    if packs == 0:
        if holding.held:
            return Zero(1, "RequestsHeld")
        return Zero(0) if holding.lastingly else Zero(1, "CannotHold")
    if look is None or idle.since_seconds is None or not (may_end and holding.now):
        return Zero(None)
    if look.at_seconds - idle.since_seconds < stabilization_seconds:
        return Zero(None)
    return Zero(0, "NoRequests")
