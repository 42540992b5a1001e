"""PURE: the next steps from the replicas that are there to those that the plan wants.

The planner looks only at the present, so a newer plan, a death or a lost step needs no special
path: the next pass decides again. It keeps three promises. At most one engine starts at a time,
and none while another gives memory back, because engines size their memory from what is free.
The shares of memory that processes hold never exceed the whole. A replica that serves is taken
away only when nothing else can be done first, so that one serves whenever more than one exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fractions import Fraction

from slm_worker.wire import ReplicaPhase

_HOLDS_MEMORY = frozenset(ReplicaPhase) - {ReplicaPhase.FAILED}


@dataclass(frozen=True)
class Settings:
    """What an engine process is started with; a change of it needs a restart."""

    max_num_seqs: int
    kv_cache_bytes: int | None
    gpu_memory_utilization: float | None
    memory_share: Fraction = field(compare=False)
    """Of the pack's budget: one divided by the replicas of the layout it was started for."""


@dataclass(frozen=True)
class Target:
    """What the plan wants: ``replicas`` equal ones, the first ``rotation`` of them serving."""

    replicas: int
    rotation: int
    settings: Settings


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
    retry_at_seconds: float = 0.0
    """When a failed replica may start again."""


class Verb(StrEnum):
    ADMIT = "admit"
    """Send it requests."""
    WITHDRAW = "withdraw"
    """Send it no new requests; it stays ready."""
    DRAIN = "drain"
    """Send it no new requests, to stop it once it is idle."""
    KEEP = "keep"
    """A draining replica is wanted after all: ready again."""
    STOP = "stop"
    START = "start"
    FORGET = "forget"
    """A failed replica that is no longer wanted."""


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
    drained = _to_drain(target, replicas)
    rotation = _rotation(target, replicas, drained)
    ready = [one for one in replicas if one.phase is ReplicaPhase.READY]
    actions = [Action(Verb.KEEP, index) for index in sorted(kept)]
    actions += [
        Action(Verb.ADMIT, one.index) for one in ready if one.index in rotation and not one.admitted
    ]
    actions += [
        Action(Verb.WITHDRAW, one.index)
        for one in ready
        if one.admitted and one.index not in rotation and one.index not in drained
    ]
    actions += [Action(Verb.DRAIN, index) for index in sorted(drained)]
    for one in replicas:
        wanted = is_wanted(target, one)
        match one.phase:
            case ReplicaPhase.DRAINING if one.idle or now_seconds >= one.drain_until_seconds:
                actions.append(Action(Verb.STOP, one.index))
            case ReplicaPhase.STARTING if not wanted:
                actions.append(Action(Verb.STOP, one.index))
            case ReplicaPhase.FAILED if one.index >= target.replicas:
                actions.append(Action(Verb.FORGET, one.index))
            case _:
                pass
    starting = _to_start(target, replicas, now_seconds)
    if starting is not None:
        actions.append(Action(Verb.START, starting))
    return tuple(actions)


def is_settled(target: Target, replicas: Sequence[Observed]) -> bool:
    """Whether exactly the wanted replicas are there, ready, and in rotation as planned."""
    return {one.index for one in replicas} == set(range(target.replicas)) and all(
        one.phase is ReplicaPhase.READY
        and is_wanted(target, one)
        and one.admitted == (one.index < target.rotation)
        for one in replicas
    )


def is_wanted(target: Target, one: Observed) -> bool:
    """Whether the plan has this replica with the settings it was started with."""
    return one.index < target.replicas and one.settings == target.settings


def _rotation(target: Target, replicas: Sequence[Observed], drained: set[int]) -> set[int]:
    """The first ``rotation`` of the ready, the wanted before those that shall go."""
    ready = [
        one for one in replicas if one.phase is ReplicaPhase.READY and one.index not in drained
    ]
    ready.sort(key=lambda one: (not is_wanted(target, one), one.index))
    return {one.index for one in ready[: target.rotation]}


def _to_drain(target: Target, replicas: Sequence[Observed]) -> set[int]:
    """Ready replicas to take away now: all surplus ones, or else one with old settings."""
    ready = [one for one in replicas if one.phase is ReplicaPhase.READY]
    surplus = [one for one in ready if one.index >= target.replicas]
    if surplus:
        leaving = {one.index for one in surplus}
        if len(surplus) == len(ready) and _coming_beside(target, replicas, leaving):
            leaving.remove(min(leaving))
        return leaving
    stale = [one for one in ready if not is_wanted(target, one)]
    busy = any(
        one.phase in _HOLDS_MEMORY and one.phase is not ReplicaPhase.READY for one in replicas
    )
    if not stale or busy or _fitting(target, replicas):
        return set()
    return {min(stale, key=lambda one: (one.admitted, one.index)).index}


def _coming_beside(target: Target, replicas: Sequence[Observed], leaving: set[int]) -> bool:
    """Whether a wanted replica starts, or could start, beside the last one that serves."""
    if any(one.phase is ReplicaPhase.STARTING and is_wanted(target, one) for one in replicas):
        return True
    last = min(leaving)
    staying = [one for one in replicas if one.index not in leaving or one.index == last]
    return bool(_fitting(target, staying))


def _to_start(target: Target, replicas: Sequence[Observed], now_seconds: float) -> int | None:
    if any(one.phase in (ReplicaPhase.STARTING, ReplicaPhase.STOPPING) for one in replicas):
        return None
    by_index = {one.index: one for one in replicas}
    for index in _fitting(target, replicas):
        failed = by_index.get(index)
        if (
            failed is None
            or now_seconds >= failed.retry_at_seconds
            or not is_wanted(target, failed)
        ):
            return index
    return None


def _fitting(target: Target, replicas: Sequence[Observed]) -> list[int]:
    """Wanted replicas without a process that fit beside those that hold memory now."""
    held = sum((_share(target, one) for one in replicas if one.phase in _HOLDS_MEMORY), Fraction(0))
    if held + target.settings.memory_share > 1:
        return []
    present = {one.index for one in replicas if one.phase in _HOLDS_MEMORY}
    return [index for index in range(target.replicas) if index not in present]


def _share(target: Target, one: Observed) -> Fraction:
    # Equal settings hold equal memory, whichever layout they were first started for.
    if one.settings == target.settings:
        return target.settings.memory_share
    return one.settings.memory_share
