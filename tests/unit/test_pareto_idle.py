"""To zero packs only after a whole period without requests, and back at once for one that waits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_operator.pareto.idle import Holding, Idle, Look, Zero, decide_zero, seen

PERIOD = 60.0
HOLDS = Holding()


def watched(*looks: Look | None) -> Idle:
    idle = Idle()
    for look in looks:
        idle = seen(idle, look)
    return idle


def decided(
    *looks: Look | None, packs: int = 1, holding: Holding = HOLDS, may_end: bool = True
) -> Zero:
    return decide_zero(packs, watched(*looks), looks[-1], holding, PERIOD, may_end)


QUIET = (Look(0.0, 5, 0), Look(30.0, 5, 0), Look(60.0, 5, 0))
"""Nothing for a whole period."""


def test_a_whole_period_without_requests_is_followed_by_zero_packs() -> None:
    assert decided(*QUIET) == Zero(0, "NoRequests")
    assert decided(*QUIET, packs=3) == Zero(0, "NoRequests")


@pytest.mark.parametrize(
    ("looks", "because"),
    [
        (QUIET[:2], "the period is not over"),
        ((*QUIET[:2], Look(60.0, 6, 0)), "one arrived and was answered between two looks"),
        ((*QUIET[:2], Look(60.0, 5, 1)), "one is in flight"),
        ((QUIET[0], Look(30.0, 5, 1), QUIET[2]), "one was in flight within the period"),
        ((*QUIET, None), "nothing could be seen this time"),
        ((QUIET[0], None, Look(60.0, 5, 0, restarts=1)), "one may have ended with its agent"),
        ((QUIET[0], None, Look(60.0, 6, 0)), "one arrived while nothing could be seen"),
    ],
)
def test_else_packs_stay(looks: tuple[Look | None, ...], because: str) -> None:
    assert decided(*looks) == Zero(None), because


def test_what_could_not_be_seen_for_a_while_was_counted_all_the_same() -> None:
    assert decided(QUIET[0], None, QUIET[2]) == Zero(0, "NoRequests")


def test_a_measurement_is_finished_first() -> None:
    assert decided(*QUIET, may_end=False) == Zero(None)


def test_without_somebody_who_holds_requests_a_pack_stays() -> None:
    silent = Holding(now=False)
    assert decided(*QUIET, holding=silent) == Zero(None)


def test_a_request_that_waits_brings_a_pack_back_at_once() -> None:
    assert decided(None, packs=0, holding=Holding(held=1)) == Zero(1, "RequestsHeld")
    assert decided(None, packs=0) == Zero(0)


def test_so_does_a_silence_that_lasts_and_no_shorter_one() -> None:
    assert decided(None, packs=0, holding=Holding(now=False)) == Zero(0)
    gone = Holding(now=False, lastingly=False)
    assert decided(None, packs=0, holding=gone) == Zero(1, "CannotHold")


LOOKS = st.lists(
    st.one_of(
        st.none(),
        st.tuples(
            st.floats(0.5, 40.0),  # seconds since the look before
            st.sampled_from([0, 0, 0, 0, 1, 7]),  # requests that arrived since
            st.sampled_from([0, 0, 0, 0, 1, 3]),  # requests in flight
            st.booleans(),  # whether the activator answers
        ),
    ),
    max_size=60,
)


@given(LOOKS, st.sampled_from([0.0, 15.0, 60.0]))
def test_never_to_zero_with_a_request_in_flight_or_within_the_period(
    played: list[tuple[float, int, int, bool] | None], period: float
) -> None:
    idle, now, arrived, packs, woken_at = Idle(), 0.0, 0, 1, 0.0
    busy_at = [0.0]
    for step in played:
        look = None
        holding = HOLDS
        if step is not None:
            seconds, requests, in_flight, answers = step
            now, arrived = now + seconds, arrived + requests
            look = Look(now, arrived, in_flight)
            holding = Holding(held=in_flight if packs == 0 else 0, now=answers)
            if requests or in_flight:
                busy_at.append(now)
        idle = seen(idle, look)
        found = decide_zero(packs, idle, look, holding, period, may_end=True)
        if packs and found.packs == 0:
            assert look is not None and look.in_flight == 0 and holding.now
            assert busy_at[-1] < now or period == 0.0 or busy_at == [0.0]
            assert now - max(busy_at[-1], woken_at) >= period
        if packs == 0 and found.packs == 1:
            assert holding.held, "nothing else starts a pack while the activator is there"
            woken_at, idle = now, Idle()
        packs = packs if found.packs is None else found.packs


@given(st.integers(1, 64), st.floats(0.0, 1e6), st.integers(0, 100))
def test_one_look_is_never_enough_but_for_a_period_of_nothing(
    packs: int, at: float, in_flight: int
) -> None:
    look = Look(at, 3, in_flight)
    assert decide_zero(packs, seen(Idle(), look), look, HOLDS, 0.1, True).packs is None


def test_a_pack_that_came_back_stays_for_a_period_at_least() -> None:
    idle = seen(replace(Idle()), Look(100.0, 5, 0))
    for at in (130.0, 159.0):
        look = Look(at, 5, 0)
        idle = seen(idle, look)
        assert decide_zero(1, idle, look, HOLDS, PERIOD, True) == Zero(None)
