"""The agent's planner: single decisions as a table, and whole walks under random mishaps."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_worker.replicas.planner import (
    Action,
    Observed,
    Settings,
    Target,
    Verb,
    is_settled,
    is_wanted,
    next_actions,
)
from slm_worker.wire import ReplicaPhase

READY, STARTING = ReplicaPhase.READY, ReplicaPhase.STARTING
DRAINING, STOPPING, FAILED = ReplicaPhase.DRAINING, ReplicaPhase.STOPPING, ReplicaPhase.FAILED
ASLEEP, SET_APART = ReplicaPhase.ASLEEP, ReplicaPhase.SET_APART
WITHOUT_PROCESS = (FAILED, SET_APART)
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
        retry_at_seconds=retry,
        turning=turning,
    )


def able(
    index: int, phase: ReplicaPhase = READY, *, layout: int, admitted: bool = False, **more: bool
) -> Observed:
    """One that was started so that it can sleep."""
    return one(index, phase, layout=layout, admitted=admitted, sleep_mode=True, **more)


CASES = {
    "nothing there: starts the first only": (target(3), [], ["start 0"]),
    "one starting: waits": (target(3), [one(0, STARTING, layout=3)], []),
    "one ready: admits it and starts the next": (
        target(3),
        [one(0, layout=3, admitted=False)],
        ["admit 0", "start 1"],
    ),
    "all there: nothing": (target(2), [one(0, layout=2), one(1, layout=2)], []),
    "rotation shrinks: withdraws without a restart": (
        target(2, 1),
        [one(0, layout=2), one(1, layout=2)],
        ["withdraw 1"],
    ),
    "rotation grows: admits": (
        target(2),
        [one(0, layout=2), one(1, layout=2, admitted=False)],
        ["admit 1"],
    ),
    "a replica of the rotation died: another takes its place": (
        target(2, 1),
        [one(0, FAILED, layout=2), one(1, layout=2, admitted=False)],
        ["admit 1"],
    ),
    "a failed replica starts again after its backoff": (
        target(1),
        [one(0, FAILED, layout=1, retry=NOW)],
        ["start 0"],
    ),
    "a failed replica starts at once with new settings": (
        target(1),
        [one(0, FAILED, layout=2)],
        ["start 0"],
    ),
    "a failed surplus replica is forgotten": (
        target(1),
        [one(0, layout=1), one(1, FAILED, layout=1)],
        ["forget 1"],
    ),
    "growing from a lone replica: it gives way first": (
        target(2),
        [one(0, layout=1)],
        ["drain 0"],
    ),
    "a draining replica with requests is left alone": (
        target(2),
        [one(0, DRAINING, layout=1, idle=False)],
        [],
    ),
    "a drained replica is stopped": (target(2), [one(0, DRAINING, layout=1)], ["stop 0"]),
    "a drain that lasted too long ends": (
        target(2),
        [one(0, DRAINING, layout=1, idle=False, until=NOW)],
        ["stop 0"],
    ),
    "nothing starts while another gives memory back": (
        target(2),
        [one(0, STOPPING, layout=2), one(1, layout=2)],
        [],
    ),
    "shrinking: surplus goes before settings change": (
        target(2),
        [one(index, layout=4) for index in range(4)],
        ["drain 2", "drain 3"],
    ),
    "new settings: one after the other": (
        target(2),
        [one(0, layout=4), one(1, layout=4)],
        ["drain 0"],
    ),
    "new settings: those outside the rotation first": (
        target(2, 1),
        [one(0, layout=4), one(1, layout=4, admitted=False)],
        ["drain 1"],
    ),
    "new settings: waits for the one that restarts": (
        target(2),
        [one(0, STARTING, layout=2), one(1, layout=4)],
        [],
    ),
    "new settings: waits while one fails with them": (
        target(2),
        [one(0, FAILED, layout=2), one(1, layout=4)],
        [],
    ),
    "when a drain leaves nobody in rotation, another ready one serves": (
        target(2, 1),
        [one(0, DRAINING, layout=4, idle=False), one(1, layout=4, admitted=False)],
        ["admit 1"],
    ),
    "growing: starts beside the old ones as soon as one fits": (
        target(4),
        [one(0, layout=4), one(1, layout=2)],
        ["start 2"],
    ),
    "growing: never beyond the memory": (
        target(4),
        [one(0, layout=4), one(1, layout=2), one(2, layout=4)],
        ["drain 1"],
    ),
    "a newer plan stops a start that it does not want": (
        target(2),
        [one(0, layout=2), one(1, STARTING, layout=3)],
        ["stop 1"],
    ),
    "a newer plan keeps a draining replica that it wants": (
        target(2),
        [one(0, layout=2), one(1, DRAINING, layout=2, idle=False)],
        ["keep 1", "admit 1"],
    ),
    "standby: who is out of rotation and idle goes to sleep": (
        resting(2, 1),
        [able(0, layout=2, admitted=True), able(1, layout=2)],
        ["sleep 1"],
    ),
    "standby: not with requests in flight": (
        resting(2, 1),
        [able(0, layout=2, admitted=True), able(1, layout=2, idle=False)],
        [],
    ),
    "standby: not in the pass that takes it out of rotation": (
        resting(2, 1),
        [able(0, layout=2, admitted=True), able(1, layout=2, admitted=True)],
        ["withdraw 1"],
    ),
    "standby: not while another starts, which measures free memory": (
        resting(3, 1),
        [able(0, layout=3, admitted=True), able(1, layout=3), able(2, STARTING, layout=3)],
        [],
    ),
    "standby: sleep comes before the next start": (
        resting(3, 1),
        [able(0, layout=3, admitted=True), able(1, layout=3)],
        ["sleep 1"],
    ),
    "standby: nothing starts while one gives its memory back": (
        resting(3, 1),
        [able(0, layout=3, admitted=True), able(1, layout=3, turning=True)],
        [],
    ),
    "standby: with one asleep the next starts": (
        resting(3, 1),
        [able(0, layout=3, admitted=True), able(1, ASLEEP, layout=3)],
        ["start 2"],
    ),
    "standby: a growing rotation wakes": (
        resting(3, 2),
        [able(0, layout=3, admitted=True), *(able(i, ASLEEP, layout=3) for i in (1, 2))],
        ["wake 1"],
    ),
    "standby: one that wakes is not woken again": (
        resting(2, 2),
        [able(0, layout=2, admitted=True), able(1, ASLEEP, layout=2, turning=True)],
        [],
    ),
    "standby: one that is awake by chance serves until the missing one is woken": (
        resting(3, 2),
        [
            able(0, layout=3, admitted=True),
            able(1, ASLEEP, layout=3),
            able(2, layout=3),
        ],
        ["wake 1", "admit 2"],
    ),
    "standby: a sleeper stands in for the dead before the dead starts again": (
        resting(2, 1),
        [able(0, FAILED, layout=2, retry=False), able(1, ASLEEP, layout=2)],
        ["wake 1"],
    ),
    "standby: a sleeper is woken while another starts": (
        resting(2, 1),
        [able(0, STARTING, layout=2), able(1, ASLEEP, layout=2)],
        ["wake 1"],
    ),
    "standby: an engine that cannot sleep stays awake": (
        replace(target(2, 1), asleep=True),
        [one(0, layout=2), one(1, layout=2, admitted=False)],
        [],
    ),
    "standby ends: all wake": (
        target(3, 1),
        [able(0, layout=3, admitted=True), *(able(i, ASLEEP, layout=3) for i in (1, 2))],
        ["wake 1", "wake 2"],
    ),
    "standby begins: engines are started anew so that they can sleep": (
        resting(2, 1),
        [one(0, layout=2), one(1, layout=2, admitted=False)],
        ["drain 1"],
    ),
    "a surplus sleeper is stopped": (
        target(1),
        [one(0, layout=1), able(1, ASLEEP, layout=1)],
        ["stop 1"],
    ),
    "a sleeper with old settings gives way at once": (
        resting(1, 1),
        [able(0, layout=2, admitted=True), able(1, ASLEEP, layout=2)],
        ["stop 1"],
    ),
    "a surplus replica serves until a sleeper has woken": (
        resting(1, 1),
        [able(0, ASLEEP, layout=1), able(2, layout=1, admitted=True)],
        ["wake 0"],
    ),
    "one set apart is not started, and the others serve": (
        target(2),
        [one(0, layout=2), one(1, SET_APART, layout=2, retry=NOW)],
        [],
    ),
    "one set apart gets another chance in another layout": (
        target(1),
        [one(0, SET_APART, layout=2)],
        ["start 0"],
    ),
    "a surplus one that was set apart is forgotten": (
        target(1),
        [one(0, layout=1), one(1, SET_APART, layout=1)],
        ["forget 1"],
    ),
    "one set apart does not keep old settings alive": (
        target(2),
        [one(0, SET_APART, layout=2), one(1, layout=3)],
        ["drain 1"],
    ),
}


@pytest.mark.parametrize("case", CASES, ids=list(CASES))
def test_the_next_actions(case: str) -> None:
    wanted, replicas, expected = CASES[case]
    actions = next_actions(wanted, replicas, NOW)
    assert [f"{action.verb} {action.index}" for action in actions] == expected


def test_equal_settings_need_no_restart_whatever_the_layout() -> None:
    # On a device without a memory budget the settings do not depend on the layout.
    lone = Settings(8, None, None, Fraction(1))
    pair = Settings(8, None, None, Fraction(1, 2))
    serving = Observed(0, READY, lone, admitted=True)
    assert next_actions(Target(2, 2, pair), [serving], NOW) == (Action(Verb.START, 1),)


def test_the_last_surplus_replica_serves_until_a_wanted_one_is_ready() -> None:
    free = Settings(8, None, None, Fraction(1, 2))
    surplus = Observed(2, READY, free, admitted=True)
    assert next_actions(Target(2, 2, free), [surplus], NOW) == (Action(Verb.START, 0),)
    ready = Observed(0, READY, free, admitted=True)
    assert Action(Verb.DRAIN, 2) in next_actions(Target(2, 2, free), [ready, surplus], NOW)


def test_with_equal_settings_too_another_layout_is_another_chance() -> None:
    lone = Settings(8, None, None, Fraction(1))
    apart = Observed(0, SET_APART, Settings(8, None, None, Fraction(1, 2)))
    assert next_actions(Target(1, 1, lone), [apart], NOW) == (Action(Verb.START, 0),)


def test_settled_with_standby_means_that_those_out_of_rotation_sleep() -> None:
    first = able(0, layout=2, admitted=True)
    assert is_settled(resting(2, 1), [first, able(1, ASLEEP, layout=2)])
    assert not is_settled(resting(2, 1), [first, able(1, layout=2)])
    assert not is_settled(resting(2, 1), [first, able(1, ASLEEP, layout=2, turning=True)])
    assert not is_settled(resting(2, 2), [first, able(1, ASLEEP, layout=2)])
    awake = replace(target(2, 1), asleep=True)
    assert is_settled(awake, [one(0, layout=2), one(1, layout=2, admitted=False)])


def test_with_one_set_apart_a_pack_is_not_settled() -> None:
    assert not is_settled(target(2), [one(0, layout=2), one(1, SET_APART, layout=2)])


def test_settled_means_exactly_the_plan() -> None:
    pair = [one(0, layout=2), one(1, layout=2, admitted=False)]
    assert is_settled(target(2, 1), pair)
    assert not is_settled(target(2, 2), pair)
    assert not is_settled(target(1, 1), pair)
    assert not is_settled(target(2, 1), pair[:1])
    assert not is_settled(target(2, 1), [pair[0], one(1, STARTING, layout=2)])


class World:
    """Replicas that obey the planner; chance decides how long things take and what breaks."""

    def __init__(self) -> None:
        self.replicas: dict[int, Observed] = {}
        self.now = 0.0

    def step(self, wanted: Target) -> None:
        for action in next_actions(wanted, self.observed(), self.now):
            self._apply(action, wanted)
        self._check(wanted)

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
                self.replicas[index] = Observed(index, STARTING, wanted.settings)
            case Verb.FORGET:
                del self.replicas[index]

    def _check(self, wanted: Target) -> None:
        holding = [one for one in self.observed() if one.phase not in WITHOUT_PROCESS]
        assert sum(one.phase is STARTING for one in holding) <= 1
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
                retry = self.now + 20
                self.change(
                    one.index, phase=FAILED, admitted=False, turning=False, retry_at_seconds=retry
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
