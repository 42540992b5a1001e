"""The cluster's power budget: what each service claims of it, and what it gets.

Each pass posts its own service's claim and reads its share; none waits for another, and none is
woken: what one claims is in the others' shares at their next pass. Claims that do not change cost
nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from slm_operator.api.models import SLMService
from slm_operator.api.status import PowerStatus
from slm_operator.decide.power import can_be_held_back, claim
from slm_operator.metrics import Metrics
from slm_operator.pareto.power_share import Claim, Held, divide, settle


@dataclass
class _Entry:
    seen: tuple[object, ...]
    """What the claim was made of."""
    claim: Claim | None
    held: Held


class PowerLedger:
    """One for all services."""

    def __init__(self, budget_watts: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.budget_watts = budget_watts
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._levels: dict[str, int] | None = None
        """By service; None when a claim has changed."""
        self._exceeded = False

    def share(self, service: SLMService) -> PowerStatus:
        """Posts what ``service`` claims now; what it gets. The limit that its status holds is in
        force until there has been room for more for long enough, also after a restart."""
        entry = self._post(service)
        if entry.claim is None:
            # A limit that is in force stays while points are measured anew.
            if not can_be_held_back(service):
                entry.held = Held()
            return PowerStatus(
                cluster_budget_watts=self.budget_watts,
                allotted_watts=0,
                limit_watts_per_pack=entry.held.limit_watts,
            )
        if self._levels is None:
            claims = self._claims()
            self._levels = divide(claims, self.budget_watts)
            self._exceeded = sum(c.watts(0) for c in claims) > self.budget_watts
        limit = entry.claim.limit_watts(self._levels[service.uid])
        entry.held = settle(entry.held, limit, self._clock())
        return self._status(entry.claim, entry.held)

    @property
    def allotted_watts(self) -> float:
        """What all services are counted with."""
        return sum(
            e.claim.watts(e.claim.within(e.held.limit_watts))
            for e in self._entries.values()
            if e.claim is not None
        )

    def expose(self, metrics: Metrics) -> None:
        metrics.cluster_power_budget.set(self.budget_watts)
        metrics.cluster_power_allotted.set_function(lambda: self.allotted_watts)

    def forget(self, uid: str) -> None:
        if self._entries.pop(uid, None) is not None:
            self._levels = None

    def _post(self, service: SLMService) -> _Entry:
        known = service.status.calibration
        phase = known.phase if known is not None else "Pending"
        seen = (service.status.frontier, phase, service.spec, service.wanted_packs)
        entry = self._entries.get(service.uid)
        if entry is None:
            before = service.status.power
            held = Held(before.limit_watts_per_pack if before is not None else None)
            entry = self._entries[service.uid] = _Entry((), None, held)
        if entry.seen != seen:
            entry.seen = seen
            claimed = claim(service)
            if claimed is None and service.status.frontier and can_be_held_back(service):
                claimed = entry.claim  # while a search goes on, what was known before it
            if claimed != entry.claim:
                entry.claim, self._levels = claimed, None
        return entry

    def _claims(self) -> list[Claim]:
        return [e.claim for e in self._entries.values() if e.claim is not None]

    def _status(self, claimed: Claim, held: Held) -> PowerStatus:
        level, top = claimed.within(held.limit_watts), len(claimed.levels) - 1
        lost = claimed.tokens_per_second(top) - claimed.tokens_per_second(level)
        return PowerStatus(
            cluster_budget_watts=self.budget_watts,
            allotted_watts=round(claimed.watts(level)),
            limit_watts_per_pack=held.limit_watts,
            given_up_tokens_per_second=round(lost),
            exceeded=self._exceeded,
        )
