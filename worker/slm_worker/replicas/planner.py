"""PURE: the next steps from the replicas that are there to those that the plan wants.

The planner looks only at the present, so a newer plan, a death or a lost step needs no special
path: the next pass decides again. It keeps four promises. Nobody starts while another starts or
gives memory back, because engines size their memory from what is free; once one has shown that it
starts with the size of cache that it was told, those that never failed with it start together.
The shares of memory that processes hold never exceed the whole; one that sleeps keeps its share,
or it could not wake. A replica that serves is taken away only when nothing else can be done first,
so that one serves whenever more than one exists. Only a replica without requests goes to sleep,
and whoever is missed in the rotation is woken before anything else is started for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fractions import Fraction

from slm_worker.wire import ReplicaPhase

_HOLDS_MEMORY = frozenset(ReplicaPhase) - {ReplicaPhase.FAILED, ReplicaPhase.SET_APART}
_GIVES_BACK_OR_STARTS = frozenset({ReplicaPhase.STARTING, ReplicaPhase.STOPPING})
_STARTED = frozenset({ReplicaPhase.READY, ReplicaPhase.DRAINING, ReplicaPhase.ASLEEP})
_CHANGES = _GIVES_BACK_OR_STARTS | {ReplicaPhase.DRAINING}


@dataclass(frozen=True)
class Settings:
    """What an engine process is started with; a change of it needs a restart."""

    max_num_seqs: int
    kv_cache_bytes: int | None
    gpu_memory_utilization: float | None
    memory_share: Fraction = field(compare=False)
    """Of the pack's budget: one divided by the replicas of the layout it was started for."""
    sleep_mode: bool = False
    """Whether the engine can give its memory back while it lives."""


@dataclass(frozen=True)
class Target:
    """What the plan wants: ``replicas`` equal ones, the first ``rotation`` of them serving."""

    replicas: int
    rotation: int
    settings: Settings
    asleep: bool = False
    """Whether those out of rotation sleep, as far as they can."""


@dataclass(frozen=True)
class Observed:
    """One replica as it is. A replica that is not there is not observed."""

    index: int
    phase: ReplicaPhase
    settings: Settings
    admitted: bool = False
    """Whether the router sends it new requests."""
    idle: bool = True
    """Whether no request is in flight at it."""
    drain_until_seconds: float = 0.0
    """When a drain has lasted long enough."""
    starts_alone: bool = False
    """Whether it has failed with these settings, perhaps because others started beside it."""
    retry_at_seconds: float = 0.0
    """When a failed replica may start again."""
    turning: bool = False
    """Whether it is about to fall asleep (then it is ready) or to wake (then it is asleep)."""


class Verb(StrEnum):
    ADMIT = "admit"
    """Send it requests."""
    WITHDRAW = "withdraw"
    """Send it no new requests; it stays ready."""
    DRAIN = "drain"
    """Send it no new requests, to stop it once it is idle."""
    KEEP = "keep"
    """A draining replica is wanted after all: ready again."""
    SLEEP = "sleep"
    """Give its memory back; its process stays."""
    WAKE = "wake"
    STOP = "stop"
    START = "start"
    FORGET = "forget"
    """A failed replica, or one set apart, that is no longer wanted."""


@dataclass(frozen=True)
class Action:
    verb: Verb
    index: int


def next_actions(
    target: Target, replicas: Sequence[Observed], now_seconds: float
) -> tuple[Action, ...]:
    """What to do now, in this order; empty when there is nothing to do but wait."""
    kept = {
        one.index
        for one in replicas
        if one.phase is ReplicaPhase.DRAINING and is_wanted(target, one)
    }
    replicas = [
        replace(one, phase=ReplicaPhase.READY) if one.index in kept else one for one in replicas
    ]
    to_wake = _to_wake(target, replicas)
    drained = set() if to_wake else _to_drain(target, replicas)
    rotation = _rotation(target, replicas, drained)
    ready = [one for one in replicas if one.phase is ReplicaPhase.READY and not one.turning]
    actions = [Action(Verb.KEEP, index) for index in sorted(kept)]
    actions += [Action(Verb.WAKE, index) for index in to_wake]
    actions += [
        Action(Verb.ADMIT, one.index) for one in ready if one.index in rotation and not one.admitted
    ]
    actions += [
        Action(Verb.WITHDRAW, one.index)
        for one in ready
        if one.admitted and one.index not in rotation and one.index not in drained
    ]
    actions += [Action(Verb.DRAIN, index) for index in sorted(drained)]
    actions += [
        Action(verb, one.index)
        for one in replicas
        if (verb := _ending(target, one, now_seconds)) is not None
    ]
    to_sleep = _to_sleep(target, replicas, drained, rotation)
    actions += [Action(Verb.SLEEP, index) for index in to_sleep]
    if not (to_wake or to_sleep):
        starting = _to_start(target, replicas, now_seconds)
        actions += [Action(Verb.START, index) for index in starting]
    return tuple(actions)


def is_settled(target: Target, replicas: Sequence[Observed]) -> bool:
    """Whether exactly the wanted replicas are there, and each does what the plan has for it."""
    return {one.index for one in replicas} == set(range(target.replicas)) and all(
        is_wanted(target, one)
        and not one.turning
        and one.phase is _wanted_phase(target, one)
        and one.admitted == (one.index < target.rotation)
        for one in replicas
    )


def is_wanted(target: Target, one: Observed) -> bool:
    """Whether the plan has this replica with the settings it was started with. An engine that can
    sleep also serves a plan in which none does."""
    fitting = {target.settings, replace(target.settings, sleep_mode=True)}
    return one.index < target.replicas and one.settings in fitting


def _wanted_phase(target: Target, one: Observed) -> ReplicaPhase:
    sleeps = target.asleep and one.settings.sleep_mode and one.index >= target.rotation
    return ReplicaPhase.ASLEEP if sleeps else ReplicaPhase.READY


def _ending(target: Target, one: Observed, now_seconds: float) -> Verb | None:
    """What ends a replica now, if anything does."""
    wanted = is_wanted(target, one)
    match one.phase:
        case ReplicaPhase.DRAINING if one.idle or now_seconds >= one.drain_until_seconds:
            return Verb.STOP
        case ReplicaPhase.STARTING if not wanted:
            return Verb.STOP
        case ReplicaPhase.ASLEEP if not wanted and not one.turning:
            return Verb.STOP
        case ReplicaPhase.FAILED | ReplicaPhase.SET_APART if one.index >= target.replicas:
            return Verb.FORGET
        case _:
            return None


def _to_wake(target: Target, replicas: Sequence[Observed]) -> list[int]:
    """Sleepers that are missed in the rotation; all of them where none shall sleep."""
    missed = _line_up(target, replicas) if target.asleep else set(range(target.replicas))
    return [
        one.index
        for one in replicas
        if one.phase is ReplicaPhase.ASLEEP
        and not one.turning
        and one.index in missed
        and is_wanted(target, one)
    ]


def _to_sleep(
    target: Target, replicas: Sequence[Observed], drained: set[int], rotation: set[int]
) -> list[int]:
    """Idle ones out of rotation; none while another starts, which measures what memory is free."""
    if not target.asleep or any(one.phase in _GIVES_BACK_OR_STARTS for one in replicas):
        return []
    needed = rotation | drained | _line_up(target, replicas)
    return [
        one.index
        for one in replicas
        if one.phase is ReplicaPhase.READY
        and one.settings.sleep_mode
        and is_wanted(target, one)
        and one.idle
        and not (one.admitted or one.turning)
        and one.index not in needed
    ]


def _rotation(target: Target, replicas: Sequence[Observed], drained: set[int]) -> set[int]:
    """The first ``rotation`` of the ready, the wanted before those that shall go."""
    return _first(target, [one for one in replicas if _able(one) and one.index not in drained])


def _line_up(target: Target, replicas: Sequence[Observed]) -> set[int]:
    """The rotation as it would be with everybody awake."""
    return _first(
        target, [one for one in replicas if _able(one) or one.phase is ReplicaPhase.ASLEEP]
    )


def _first(target: Target, replicas: list[Observed]) -> set[int]:
    ordered = sorted(replicas, key=lambda one: (not is_wanted(target, one), one.index))
    return {one.index for one in ordered[: target.rotation]}


def _able(one: Observed) -> bool:
    """Whether it can serve now; one that falls asleep cannot."""
    return one.phase is ReplicaPhase.READY and not one.turning


def _to_drain(target: Target, replicas: Sequence[Observed]) -> set[int]:
    """Ready replicas to take away now: all surplus ones, or else one with old settings."""
    ready = [one for one in replicas if _able(one)]
    surplus = [one for one in ready if one.index >= target.replicas]
    if surplus:
        leaving = {one.index for one in surplus}
        if len(surplus) == len(ready) and _coming_beside(target, replicas, leaving):
            leaving.remove(min(leaving))
        return leaving
    stale = [one for one in ready if not is_wanted(target, one)]
    changing = any(
        one.turning
        or one.phase in _CHANGES
        or (one.phase is ReplicaPhase.ASLEEP and not is_wanted(target, one))
        for one in replicas
    )
    if not stale or changing or _fitting(target, replicas):
        return set()
    return {min(stale, key=lambda one: (one.admitted, one.index)).index}


def _coming_beside(target: Target, replicas: Sequence[Observed], leaving: set[int]) -> bool:
    """Whether a wanted replica comes, or could start, beside the last one that serves."""
    coming = (ReplicaPhase.STARTING, ReplicaPhase.ASLEEP)
    if any(one.phase in coming and is_wanted(target, one) for one in replicas):
        return True
    last = min(leaving)
    staying = [one for one in replicas if one.index not in leaving or one.index == last]
    return bool(_fitting(target, staying))


def _to_start(target: Target, replicas: Sequence[Observed], now_seconds: float) -> list[int]:
    """One, or those that may start together."""
    if any(one.turning or one.phase in _GIVES_BACK_OR_STARTS for one in replicas):
        return []
    by_index = {one.index: one for one in replicas}
    may = [
        index
        for index in _fitting(target, replicas)
        if index not in by_index or _may_start(target, by_index[index], now_seconds)
    ]
    if not _is_proven(target, replicas):
        return may[:1]
    together = [index for index in may if not _starts_alone(target, by_index.get(index))]
    return together[: _room(target, replicas)] or may[:1]


def _is_proven(target: Target, replicas: Sequence[Observed]) -> bool:
    """Whether one has started with the plan's settings, and with a size of cache that does not
    depend on what is free."""
    return target.settings.kv_cache_bytes is not None and any(
        one.phase in _STARTED and is_wanted(target, one) for one in replicas
    )


def _starts_alone(target: Target, one: Observed | None) -> bool:
    return one is not None and is_wanted(target, one) and one.starts_alone


def _may_start(target: Target, one: Observed, now_seconds: float) -> bool:
    """Whether one that does not run may start now: at once where the plan has changed."""
    if not is_wanted(target, one):
        return True
    return not _is_set_apart(target, one) and now_seconds >= one.retry_at_seconds


def _is_set_apart(target: Target, one: Observed) -> bool:
    """Whether the plan has still the layout in which it was set apart. Equal settings may belong
    to another one, in which it gets another chance."""
    return (
        one.phase is ReplicaPhase.SET_APART
        and is_wanted(target, one)
        and one.settings.memory_share == target.settings.memory_share
    )


def _fitting(target: Target, replicas: Sequence[Observed]) -> list[int]:
    """Wanted replicas without a process that may come and fit beside those that hold memory now."""
    if _room(target, replicas) < 1:
        return []
    out = {
        one.index for one in replicas if one.phase in _HOLDS_MEMORY or _is_set_apart(target, one)
    }
    return [index for index in range(target.replicas) if index not in out]


def _room(target: Target, replicas: Sequence[Observed]) -> int:
    """How many more the memory holds now."""
    held = sum((_share(target, one) for one in replicas if one.phase in _HOLDS_MEMORY), Fraction(0))
    return int((1 - held) / target.settings.memory_share)


def _share(target: Target, one: Observed) -> Fraction:
    # Equal settings hold equal memory, whichever layout they were first started for.
    if replace(one.settings, sleep_mode=False) == replace(target.settings, sleep_mode=False):
        return target.settings.memory_share
    return one.settings.memory_share
