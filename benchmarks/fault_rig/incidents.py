"""PURE: which failed requests a fault explains. What is left over is a defect of the pack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.fault_rig.counting import Kind, Outcome

IN_FLIGHT = frozenset({Kind.LOST, Kind.CUT})
"""Requests that an engine had taken when it ended: nobody can tell how far it was with them, and a
stream's reader has its beginning, so the router does not send them again."""
REFUSED = frozenset({Kind.REFUSED})
ROUTER_GONE = IN_FLIGHT | {Kind.UNREACHABLE}
NOTHING_LEFT = ROUTER_GONE | REFUSED
TIME_LEAPS = frozenset({Kind.LOST, Kind.CUT, Kind.REFUSED, Kind.WRONG})
"""What may happen to requests while the wall clock jumps by more than the router's timeouts.
HAProxy up to the autumn of 2024 takes a jump that falls between two of its polls for time that has
passed, and every timeout is over at once (its remedy: "clock: detect and cover jumps during
execution")."""


@dataclass(frozen=True)
class Incident:
    """A fault and what it may cost. Times are of the load's clock."""

    what: str
    at_seconds: float
    until_seconds: float
    """A request that was sent after it is not explained by this."""
    kinds: frozenset[Kind]
    at_most: int | None = None
    """Requests that the broken part had at once; None where it had all."""


@dataclass(frozen=True)
class Account:
    explained: Counter[str]
    """Failed requests by the incident that explains them."""
    unexplained: tuple[Outcome, ...]


def account(failures: Iterable[Outcome], incidents: Sequence[Incident]) -> Account:
    """Gives each failure to the first incident that can explain it and has room for it."""
    room = {number: one.at_most for number, one in enumerate(incidents)}
    explained: Counter[str] = Counter()
    unexplained = []
    for failure in sorted(failures, key=lambda one: one.ended_seconds):
        for number, incident in enumerate(incidents):
            left = room[number]
            if left != 0 and _explains(incident, failure):
                room[number] = None if left is None else left - 1
                explained[incident.what] += 1
                break
        else:
            unexplained.append(failure)
    return Account(explained, tuple(unexplained))


def _explains(incident: Incident, failure: Outcome) -> bool:
    return (
        failure.kind in incident.kinds
        and failure.began_seconds <= incident.until_seconds
        and failure.ended_seconds >= incident.at_seconds
    )
