"""Which packs to create and which to delete, so that the Pods become what the service wants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slm_operator.decide.snapshot import Pack


@dataclass(frozen=True)
class PodChanges:
    create: tuple[int, ...] = ()
    """Ordinals without a Pod."""
    delete: tuple[Pack, ...] = ()
    """Packs that ended or are surplus, and at most one that runs an outdated template."""


def pod_changes(packs: Sequence[Pack], wanted: int, template_hash: str) -> PodChanges:
    """Ended and surplus packs go at once. Outdated ones are replaced one at a time, and only while
    every other pack is there, so that a change of the template never takes all down together."""
    present = {pack.ordinal for pack in packs}
    missing = tuple(o for o in range(wanted) if o not in present)
    useless = [p for p in packs if (p.ordinal >= wanted or p.ended) and not p.terminating]
    staying = [p for p in packs if p.ordinal < wanted and p not in useless]
    outdated = [p for p in staying if p.template_hash != template_hash and not p.terminating]
    moving = len(staying) < wanted or any(p.terminating for p in staying)
    unready = [p for p in staying if not p.ready and p not in outdated]
    if moving or (unready and len(staying) > 1):
        outdated = []
    return PodChanges(create=missing, delete=(*useless, *outdated[:1]))
