"""Plans, and replicas as the agent's planner sees them."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from slm_worker.replicas.planner import Observed, Settings, Target
from slm_worker.wire import ReplicaPhase

READY, STARTING = ReplicaPhase.READY, ReplicaPhase.STARTING
DRAINING, STOPPING, FAILED = ReplicaPhase.DRAINING, ReplicaPhase.STOPPING, ReplicaPhase.FAILED
ASLEEP, SET_APART = ReplicaPhase.ASLEEP, ReplicaPhase.SET_APART
NOW = 100.0


def share_of(layout: int, max_num_seqs: int = 8) -> Settings:
    return Settings(max_num_seqs, 1200 // layout, 0.9 / layout, Fraction(1, layout))


def target(layout: int, rotation: int | None = None) -> Target:
    return Target(layout, rotation or layout, share_of(layout))


def resting(layout: int, rotation: int) -> Target:
    """A plan in which those out of rotation sleep."""
    settings = replace(share_of(layout), sleep_mode=True)
    return Target(layout, rotation, settings, asleep=True)


def one(
    index: int,
    phase: ReplicaPhase = READY,
    *,
    layout: int,
    admitted: bool | None = None,
    idle: bool = True,
    until: float = NOW + 1,
    retry: float = NOW + 1,
    starts_alone: bool = False,
    sleep_mode: bool = False,
    turning: bool = False,
) -> Observed:
    return Observed(
        index,
        phase,
        replace(share_of(layout), sleep_mode=sleep_mode),
        admitted=(phase is READY) if admitted is None else admitted,
        idle=idle,
        drain_until_seconds=until,
        starts_alone=starts_alone,
        retry_at_seconds=retry,
        turning=turning,
    )


def able(
    index: int, phase: ReplicaPhase = READY, *, layout: int, admitted: bool = False, **more: bool
) -> Observed:
    """One that was started so that it can sleep."""
    return one(index, phase, layout=layout, admitted=admitted, sleep_mode=True, **more)
