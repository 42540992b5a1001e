"""The agent's planner: single decisions, as a table."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from planner_builders import (
    ASLEEP,
    DRAINING,
    FAILED,
    NOW,
    READY,
    SET_APART,
    STARTING,
    STOPPING,
    able,
    one,
    resting,
    target,
)
from slm_worker.replicas.planner import (
    Action,
    Observed,
    Settings,
    Target,
    Verb,
    is_settled,
    next_actions,
)

CASES = {
    "nothing there: starts the first only": (target(3), [], ["start 0"]),
    "one starting: waits": (target(3), [one(0, STARTING, layout=3)], []),
    "one ready: admits it and starts the others together": (
        target(3),
        [one(0, layout=3, admitted=False)],
        ["admit 0", "start 1", "start 2"],
    ),
    "two of three start together: waits for both": (
        target(3),
        [one(0, layout=3), one(1, layout=3), one(2, STARTING, layout=3)],
        [],
    ),
    "who failed starts alone, after those that did not": (
        target(4),
        [one(0, layout=4), one(1, FAILED, layout=4, retry=NOW, starts_alone=True)],
        ["start 2", "start 3"],
    ),
    "of those that failed one starts": (
        target(3),
        [
            one(0, layout=3),
            *(one(i, FAILED, layout=3, retry=NOW, starts_alone=True) for i in (1, 2)),
        ],
        ["start 1"],
    ),
    "who ended without a failure of its own starts together with others": (
        target(3),
        [one(0, layout=3), *(one(i, FAILED, layout=3, retry=NOW) for i in (1, 2))],
        ["start 1", "start 2"],
    ),
    "who failed with other settings starts together with others": (
        target(4),
        [one(0, layout=4), one(1, FAILED, layout=3, starts_alone=True)],
        ["start 1", "start 2", "start 3"],
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
    "growing: only those start together that fit beside the old ones": (
        target(6),
        [one(0, layout=6), one(1, layout=2)],
        ["start 2", "start 3"],
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


def test_engines_that_size_their_caches_themselves_start_one_at_a_time() -> None:
    free = Settings(8, None, 0.3, Fraction(1, 3))
    serving = Observed(0, READY, free, admitted=True)
    assert next_actions(Target(3, 3, free), [serving], NOW) == (Action(Verb.START, 1),)


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
