"""How a power budget is shared by many services, by priority and then by least loss of throughput.

Each service can be held to one of a few levels: what one of its packs draws, and serves, at the
points that it would choose under ever stricter limits. What a higher priority gets is decided
first, with the least levels of all lower ones set aside, so none loses while one below it could
still give way. Among equals, packs step down where the fewest tokens/s are lost for each watt that
is saved; then what room is left goes where it brings most.

The best division among equals is a knapsack problem; this rule is off by less than one step of one
service.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

TOLERANCE = 0.03
"""By so much a point that is measured again may draw more and still keep the limit that was made
for it; windows of one layout differ by a percent or two."""
GIVE_BACK_SECONDS = 300.0
"""There has to be room for so long until a limit is lifted, since each change of a layout restarts
replicas; less power is enforced at once. It is also longer than a restarted operator takes to have
looked at every service."""


@dataclass(frozen=True)
class Level:
    """What one pack draws and serves, saturated."""

    power_watts: float
    output_tokens_per_second: float


@dataclass(frozen=True)
class Claim:
    """What one service asks for."""

    service: str
    """Decides between equals, so that the order of claims does not matter."""
    packs: int
    priority: int
    levels: tuple[Level, ...]
    """At least one, each with more power and throughput than the one before; the last is what it
    would run without the budget."""

    def watts(self, level: int) -> float:
        return self.packs * self.levels[level].power_watts

    def tokens_per_second(self, level: int) -> float:
        return self.packs * self.levels[level].output_tokens_per_second

    def limit_watts(self, level: int) -> int | None:
        """The limit of one pack that keeps it at ``level``, apart from the next; None at the top,
        where nothing is taken off."""
        if level == len(self.levels) - 1:
            return None
        here, above = self.levels[level].power_watts, self.levels[level + 1].power_watts
        return max(1, -int(-min(here * (1 + TOLERANCE), (here + above) / 2) // 1))

    def within(self, limit_watts: float | None) -> int:
        """The highest level that keeps a limit; the least when none does."""
        if limit_watts is None:
            return len(self.levels) - 1
        kept = [i for i, level in enumerate(self.levels) if level.power_watts <= limit_watts]
        return max(kept, default=0)


@dataclass(frozen=True)
class Held:
    """The limit of one pack that is in force."""

    limit_watts: int | None = None
    room_since_seconds: float | None = None
    """Since when there has been room for more."""


def divide(claims: Iterable[Claim], budget_watts: float) -> dict[str, int]:
    """The level of each service. Their sum keeps the budget, unless even the least levels exceed
    it; then all have these."""
    known = sorted(claims, key=lambda c: c.service)
    levels = {c.service: 0 for c in known}
    free = budget_watts - sum(c.watts(0) for c in known)
    if free < 0:
        return levels
    for priority in sorted({c.priority for c in known}, reverse=True):
        equals = [c for c in known if c.priority == priority]
        found = _among_equals(equals, free + sum(c.watts(0) for c in equals))
        free -= sum(c.watts(found[c.service]) - c.watts(0) for c in equals)
        levels |= found
    return levels


def settle(held: Held, wanted_watts: int | None, now_seconds: float) -> Held:
    """The limit in force, given the one that the division wants: a stricter one at once, a looser
    one when there has been room for it for long enough."""
    if held.limit_watts is None or (wanted_watts is not None and wanted_watts <= held.limit_watts):
        return Held(wanted_watts)
    since = now_seconds if held.room_since_seconds is None else held.room_since_seconds
    if now_seconds - since >= GIVE_BACK_SECONDS:
        return Held(wanted_watts)
    return Held(held.limit_watts, since)


def _among_equals(claims: Sequence[Claim], budget_watts: float) -> dict[str, int]:
    levels = {c.service: len(c.levels) - 1 for c in claims}
    by_name = {c.service: c for c in claims}
    excess = sum(c.watts(levels[c.service]) for c in claims) - budget_watts
    steps = [step for c in claims if (step := _step_down(c, levels[c.service]))]
    heapq.heapify(steps)
    while excess > 0 and steps:
        _, service, level = heapq.heappop(steps)
        claim = by_name[service]
        excess -= claim.watts(levels[service]) - claim.watts(level)
        levels[service] = level
        if step := _step_down(claim, level):
            heapq.heappush(steps, step)
    _fill(claims, levels, -excess)
    return levels


def _step_down(claim: Claim, level: int) -> tuple[float, str, int] | None:
    """The loss for each watt saved, of the step from ``level`` where it is least."""
    return min(
        (
            (
                (claim.tokens_per_second(level) - claim.tokens_per_second(lower))
                / (claim.watts(level) - claim.watts(lower)),
                claim.service,
                lower,
            )
            for lower in range(level)
            if claim.packs  # one that has none now draws nothing at any level
        ),
        default=None,
    )


def _fill(claims: Sequence[Claim], levels: dict[str, int], room_watts: float) -> None:
    """Raises, while something fits, what gains most."""
    while True:
        fitting = [
            (-claim.tokens_per_second(level) + claim.tokens_per_second(now), claim.service, level)
            for claim in claims
            for now in (levels[claim.service],)
            for level in range(now + 1, len(claim.levels))
            if claim.watts(level) - claim.watts(now) <= room_watts
        ]
        if not fitting:
            return
        _, service, level = min(fitting)
        claim = next(c for c in claims if c.service == service)
        room_watts -= claim.watts(level) - claim.watts(levels[service])
        levels[service] = level
