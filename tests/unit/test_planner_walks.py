"""Whole walks of the agent's planner, under random mishaps."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from planner_builders import (
    ASLEEP,
    DRAINING,
    FAILED,
    READY,
    SET_APART,
    STARTING,
    STOPPING,
    resting,
    target,
)
from slm_worker.replicas.planner import (
    Action,
    Observed,
    Target,
    Verb,
    is_settled,
    is_wanted,
    next_actions,
)
from slm_worker.wire import ReplicaPhase

STARTED = (READY, DRAINING, ASLEEP)
WITHOUT_PROCESS = (FAILED, SET_APART)


class World:
    """Replicas that obey the planner; chance decides how long things take and what breaks."""

    def __init__(self) -> None:
        self.replicas: dict[int, Observed] = {}
        self.now = 0.0

    def step(self, wanted: Target) -> None:
        before = self.observed()
        actions = next_actions(wanted, before, self.now)
        for action in actions:
            self._apply(action, wanted)
        self._check(wanted)
        starts = {action.index for action in actions if action.verb is Verb.START}
        assert not starts or all(one.phase is not STARTING for one in before)
        if len(starts) > 1:
            assert any(one.phase in STARTED and is_wanted(wanted, one) for one in before)
            assert not any(
                one.starts_alone and is_wanted(wanted, one) for one in before if one.index in starts
            )

    def observed(self) -> list[Observed]:
        return [self.replicas[index] for index in sorted(self.replicas)]

    def serving(self) -> set[int]:
        return {one.index for one in self.observed() if one.phase is READY and one.admitted}

    def change(self, index: int, **changes: object) -> None:
        self.replicas[index] = replace(self.replicas[index], **changes)  # type: ignore[arg-type]

    def _apply(self, action: Action, wanted: Target) -> None:
        index = action.index
        match action.verb:
            case Verb.ADMIT:
                self.change(index, admitted=True)
            case Verb.WITHDRAW:
                self.change(index, admitted=False)
            case Verb.DRAIN:
                until = self.now + 120
                self.change(
                    index, phase=DRAINING, admitted=False, idle=False, drain_until_seconds=until
                )
            case Verb.KEEP:
                self.change(index, phase=READY)
            case Verb.SLEEP:
                assert self.replicas[index].idle and not self.replicas[index].admitted
                assert self.replicas[index].settings.sleep_mode
                self.change(index, turning=True)
            case Verb.WAKE:
                self.change(index, turning=True)
            case Verb.STOP:
                self.change(index, phase=STOPPING)
            case Verb.START:
                assert not any(one.turning for one in self.observed()), "memory is in motion"
                before = self.replicas.get(index)
                again = before is not None and before.settings == wanted.settings
                alone = before is not None and again and before.starts_alone
                self.replicas[index] = Observed(
                    index, STARTING, wanted.settings, starts_alone=alone
                )
            case Verb.FORGET:
                del self.replicas[index]

    def _check(self, wanted: Target) -> None:
        holding = [one for one in self.observed() if one.phase not in WITHOUT_PROCESS]
        assert len(self.serving()) <= wanted.rotation
        ready = [one for one in holding if one.phase is READY and not one.turning]
        sleeping = [one for one in holding if one.phase is ASLEEP and is_wanted(wanted, one)]
        waking = [one for one in sleeping if one.turning]
        missed = min(wanted.rotation, len(sleeping))
        assert ready or len(waking) >= missed, "who is missed is woken"
        assert bool(ready) == bool(self.serving()), "a ready replica serves"
        total = sum((one.settings.memory_share for one in holding), Fraction(0))
        assert total <= 1, "processes never hold more than the memory"

    def happen(self, event: int) -> None:
        """One thing that takes its time comes to an end, or one process dies."""
        self.now += 7
        present = self.observed()
        if not present:
            return
        one = present[event % len(present)]
        fate = event // len(present) % 4
        match one.phase:
            case ReplicaPhase.STARTING if fate:
                self.change(one.index, phase=READY)
            case ReplicaPhase.READY | ReplicaPhase.ASLEEP if one.turning and fate:
                self.change(one.index, phase=_turned(one), turning=False)
            case ReplicaPhase.READY if fate == 1 and not self.others_apart(one.index):
                self.change(one.index, phase=SET_APART, admitted=False)
            case ReplicaPhase.DRAINING:
                self.change(one.index, idle=True)
            case ReplicaPhase.STOPPING:
                del self.replicas[one.index]
            case ReplicaPhase.STARTING | ReplicaPhase.READY | ReplicaPhase.ASLEEP if fate == 0:
                self.change(
                    one.index,
                    phase=FAILED,
                    admitted=False,
                    turning=False,
                    starts_alone=True,
                    retry_at_seconds=self.now + 20,
                )
            case _:
                pass

    def others_apart(self, index: int) -> bool:
        return any(one.phase is SET_APART and one.index != index for one in self.observed())

    def finish(self) -> None:
        """Everything that is under way succeeds."""
        self.now += 60
        for one in self.observed():
            match one.phase:
                case ReplicaPhase.STARTING:
                    self.change(one.index, phase=READY)
                case ReplicaPhase.READY | ReplicaPhase.ASLEEP if one.turning:
                    self.change(one.index, phase=_turned(one), turning=False)
                case ReplicaPhase.DRAINING:
                    self.change(one.index, idle=True)
                case ReplicaPhase.READY if not one.admitted:
                    # Such as one that was kept in mid-drain: what it works on ends all the same.
                    self.change(one.index, idle=True)
                case ReplicaPhase.STOPPING:
                    del self.replicas[one.index]
                case _:
                    pass


def _turned(one: Observed) -> ReplicaPhase:
    return ASLEEP if one.phase is READY else READY


targets = st.integers(1, 6).flatmap(
    lambda layout: st.builds(
        lambda rotation, rests: (resting if rests else target)(layout, rotation),
        st.integers(1, layout),
        st.booleans(),
    )
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(targets, st.lists(st.integers(0, 500), max_size=15)), min_size=1))
def test_any_walk_keeps_the_promises_and_reaches_the_last_plan(
    walk: list[tuple[Target, list[int]]],
) -> None:
    world = World()
    for wanted, events in walk:
        world.step(wanted)
        for event in events:
            world.happen(event)
            world.step(wanted)
    last = walk[-1][0]
    for _ in range(60):
        world.finish()
        world.step(last)
    apart = {one.index for one in world.observed() if one.phase is SET_APART}
    if apart:
        assert len(world.serving()) == min(last.rotation, last.replicas - len(apart))
    else:
        assert is_settled(last, world.observed())


@settings(max_examples=50, deadline=None)
@given(targets, targets)
def test_a_smooth_change_of_layout_interrupts_service_only_around_a_lone_replica(
    old: Target, new: Target
) -> None:
    world = World()
    for _ in range(30):
        world.step(old)
        world.finish()
    served = []
    for _ in range(60):
        world.step(new)
        served.append(len(world.serving()))
        world.finish()
    assert is_settled(new, world.observed())
    lone = min(old.replicas, new.replicas) == 1
    assert min(served) >= 1 or lone
