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


def pod_changes(
    packs: Sequence[Pack], wanted: int, template_hash: str, exploring: Pack | None = None
) -> PodChanges:
    """Ended and surplus packs go at once, of the latter the newest first, but never the one that
    explores while another can go. Outdated ones are replaced one at a time, and only while every
    other pack is there, so that a change of the template never takes all down together."""
    alive = [p for p in packs if not (p.terminating or p.ended)]
    alive.sort(key=lambda p: (p is not exploring, not p.ready, p.created, p.ordinal))
    staying, surplus = alive[:wanted], alive[wanted:]
    kept = {p.ordinal for p in staying}
    free = (o for o in range(wanted) if o not in kept)
    # A name is free once the Pod that has it is gone, and so is its GPU.
    present = {p.ordinal for p in packs}
    missing = [o for o, _ in zip(free, range(wanted - len(staying)), strict=False)]
    ended = [p for p in packs if p.ended and not p.terminating]
    outdated = [p for p in staying if p.template_hash != template_hash]
    unready = [p for p in staying if not p.ready and p not in outdated]
    if missing or (unready and len(staying) > 1):
        outdated = []
    return PodChanges(
        create=tuple(o for o in missing if o not in present),
        delete=(*ended, *surplus, *outdated[:1]),
    )
