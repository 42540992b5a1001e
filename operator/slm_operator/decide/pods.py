"""Which packs to create and which to delete, so that the Pods become what the service wants."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from slm_operator.decide.snapshot import Pack
from slm_operator.decide.times import moment

LOST_AFTER = timedelta(seconds=60)
"""After the end of its grace a Pod that is still there is on a node that nobody hears of: a kubelet
that lives ends it within seconds, and clocks differ by a few."""

NO_PLACE_AFTER = timedelta(minutes=15)
"""What the scheduler or the API server refused for so long has no place: a cluster autoscaler gives
up a node that has not come by then (--max-node-provision-time, unless it is set)."""


@dataclass(frozen=True)
class Templates:
    """Which template packs shall have, and how those of another one are replaced."""

    current: frozenset[str]
    """Hashes of what the service runs; more than one where they are rendered otherwise today."""
    canary: str = ""
    """Of what one pack is tried with, beside the others; empty: nothing is tried."""
    replaces: bool = True
    """False while the rollout is paused."""
    places: int | None = None
    """How many packs found a GPU, once it is known that there is no more: then an outdated one
    makes room first. None: the new pack comes first."""


@dataclass(frozen=True)
class PodChanges:
    create: tuple[int, ...] = ()
    """Ordinals without a Pod."""
    canary: tuple[int, ...] = ()
    """The one that is tried with the new template."""
    delete: tuple[Pack, ...] = ()
    """Packs that ended or are surplus, and at most one that runs an outdated template."""


def pod_changes(
    packs: Sequence[Pack],
    wanted: int,
    templates: Templates,
    exploring: Pack | None = None,
    now: str = "",
) -> PodChanges:
    """Ended and surplus packs go at once, of the latter the newest first, but never the one that
    explores while another can go. Of outdated ones at most one goes at a time: when all that are
    wanted answer without it, or where no GPU is free when all but one do. ``now``: RFC 3339, UTC.
    """
    ended = tuple(p for p in packs if p.ended and not p.terminating)
    alive = [p for p in packs if not (p.terminating or p.ended)]
    if wanted == 0:
        return PodChanges(delete=(*ended, *alive))
    if templates.places is not None:
        wanted = min(wanted, max(templates.places, 1))
    alive.sort(key=lambda p: (p is not exploring, not p.ready, p.created, p.ordinal))
    if templates.canary:
        changes = _beside_a_canary(packs, alive, wanted, templates, now)
    else:
        changes = _of_one_template(packs, alive, wanted, templates, exploring, now)
    return replace(changes, delete=(*ended, *changes.delete))


def _beside_a_canary(
    packs: Sequence[Pack], alive: Sequence[Pack], wanted: int, templates: Templates, now: str
) -> PodChanges:
    """``alive``: those that stay longest first."""
    canaries = [p for p in alive if p.template_hash == templates.canary]
    others = [p for p in alive if p not in canaries]
    places = wanted if templates.places is None else wanted - 1
    staying, surplus = others[:places], (*others[places:], *canaries[1:])
    taken = _lost_ordinals(packs, now) | {p.ordinal for p in canaries[:1]}
    create = _missing(packs, staying, places, taken)
    made: tuple[int, ...] = ()
    settled = not (create or surplus or _going(packs, now))
    if templates.replaces and not canaries and settled:
        made = _free(packs, 1)
    return PodChanges(create, made, surplus)


def _of_one_template(
    packs: Sequence[Pack],
    alive: Sequence[Pack],
    wanted: int,
    templates: Templates,
    exploring: Pack | None,
    now: str,
) -> PodChanges:
    """``alive``: those that stay longest first, but for outdated ones."""
    surges, going = templates.places is None, _going(packs, now)
    former = [p for p in alive if p.template_hash not in templates.current]
    current = [p for p in alive if p not in former or not templates.replaces]
    room = wanted + (1 if len(current) < len(alive) and surges else 0)
    # One that has found no GPU goes before an outdated one that serves.
    kept = sorted(alive, key=lambda p: (p is not exploring, not p.ready, p in former))
    staying, surplus = kept[:room], kept[room:]
    outdated = [p for p in staying if p not in current]
    replaced = [] if surplus else _replaceable(staying, outdated, wanted, surges)
    staying = [p for p in staying if p not in replaced]
    create = _missing(packs, staying, wanted, _lost_ordinals(packs, now))
    if not surges:
        # A Pod that goes has its GPU to the end.
        create = create[: max(0, wanted - len(staying) - len(going) - len(replaced))]
    starting = any(not p.ready for p in current)
    if (
        surges
        and outdated
        and not (replaced or create or going or starting)
        and len(staying) == wanted
    ):
        create = _free(packs, 1)
    return PodChanges(create, delete=(*surplus, *replaced))


def _going(packs: Sequence[Pack], now: str) -> list[Pack]:
    return [p for p in packs if p.terminating and not is_lost(p, now)]


def _lost_ordinals(packs: Sequence[Pack], now: str) -> set[int]:
    """They are taken for longer than a Pod that goes."""
    return {p.ordinal for p in packs if p.terminating and is_lost(p, now)}


def packs_with_a_place(
    packs: Sequence[Pack], changes: PodChanges, wanted: int, refused: bool, now: str
) -> int:
    """How many of those that are ``wanted`` have a node or may get one: all but those to which the
    scheduler has said no for `NO_PLACE_AFTER`, or the API server, which then ``refused`` for so
    long. By what lasts: a Pod that goes keeps its place until another has it, so a drain that
    evicts one makes no difference, and takes no second one before a node for the first may come."""
    there = sum(not (_found_no_place(p, now) or is_lost(p, now)) for p in packs)
    made = 0 if refused else len(changes.create) + len(changes.canary)
    return min(wanted, there + made)


def _found_no_place(pack: Pack, now: str) -> bool:
    if pack.scheduling is None or not pack.created:
        return False
    return moment(now) > moment(pack.created) + NO_PLACE_AFTER


def is_lost(pack: Pack, now: str) -> bool:
    """Whether its end was due so long ago that its node must be gone, and its GPU with it."""
    if not (pack.ends_by and now):
        return False
    return moment(now) > moment(pack.ends_by) + LOST_AFTER


def _replaceable(
    staying: Sequence[Pack], outdated: Sequence[Pack], wanted: int, surges: bool
) -> list[Pack]:
    """The outdated pack that is not needed any more, one that does not serve first."""
    if not outdated or len(staying) < wanted:
        return []
    first = min(outdated, key=lambda p: p.ready)
    starting = any(not p.ready for p in staying if p not in outdated)
    serving = sum(p.ready for p in staying)
    if first.ready:
        enough = serving > (wanted if surges else wanted - 1)
        return [first] if enough else []
    return [] if starting and surges else [first]


def _missing(
    packs: Sequence[Pack], staying: Sequence[Pack], wanted: int, taken: Iterable[int]
) -> tuple[int, ...]:
    """The lowest free ordinals for those that are not there. One whose Pod goes is used again when
    that is gone, and with it its GPU; unless it is ``taken`` for longer."""
    kept = {p.ordinal for p in staying} | set(taken)
    present = {p.ordinal for p in packs}
    count = max(0, wanted - len(staying))
    free = (o for o in range(wanted + len(kept) + 1) if o not in kept)
    return tuple(o for o, _ in zip(free, range(count), strict=False) if o not in present)


def _free(packs: Sequence[Pack], count: int) -> tuple[int, ...]:
    present = {p.ordinal for p in packs}
    return tuple(o for o in range(len(packs) + count) if o not in present)[:count]
