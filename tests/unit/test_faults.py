"""When the set restarts after a fatal fault, and which replica is set apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_worker.replicas.faults import (
    FAULTS_UNTIL_SET_APART,
    SUSPICION_WINDOW_SECONDS,
    FaultHistory,
    suspects,
)
from slm_worker.replicas.health import MAX_BACKOFF_SECONDS

MINUTE_SECONDS = 60.0


def after(replicas: int, *faults: tuple[float, set[int]]) -> FaultHistory:
    """The history of ``replicas`` after faults at these times, with these suspects."""
    history = FaultHistory(replicas)
    for at_seconds, suspected in faults:
        history = history.with_fault(at_seconds, suspected)
    return history


def test_without_a_fault_replicas_start_at_once() -> None:
    assert FaultHistory(2).restart_at_seconds == float("-inf")
    assert FaultHistory(2).set_apart == frozenset()


def test_the_set_waits_longer_after_each_fault_up_to_a_minute() -> None:
    history = FaultHistory(2)
    waits = []
    now_seconds = 1000.0
    for _ in range(8):
        history = history.with_fault(now_seconds)
        waits.append(history.restart_at_seconds - now_seconds)
        now_seconds = history.restart_at_seconds + 1
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


def test_minutes_without_a_fault_reset_the_wait() -> None:
    history = after(2, (0.0, set()), (10.0, set()), (10.0 + 5 * MINUTE_SECONDS, set()))
    assert history.restart_at_seconds == 10.0 + 5 * MINUTE_SECONDS + 1


def test_the_third_fault_of_one_replica_within_ten_minutes_sets_it_apart() -> None:
    assert after(3, (0.0, {1}), (100.0, {1})).set_apart == frozenset()
    assert after(3, (0.0, {1}), (100.0, {1}), (600.0, {1})).set_apart == {1}


@pytest.mark.parametrize(
    ("why", "faults"),
    [
        ("too far apart", [(0.0, {1}), (100.0, {1}), (601.0, {1})]),
        ("another one each time", [(0.0, {0}), (100.0, {1}), (200.0, {2})]),
        ("never the only suspect", [(0.0, {0, 1}), (100.0, {0, 1}), (200.0, {0, 1})]),
        ("nobody suspected", [(0.0, set()), (100.0, set()), (200.0, set())]),
    ],
)
def test_nobody_is_set_apart_without_proof(why: str, faults: list[tuple[float, set[int]]]) -> None:
    assert after(3, *faults).set_apart == frozenset(), why


def test_faults_of_others_in_between_do_not_absolve() -> None:
    faults = [(0.0, {1}), (50.0, {0}), (100.0, {1}), (150.0, set[int]()), (200.0, {1})]
    assert after(3, *faults).set_apart == {1}


def test_set_apart_lasts_until_the_layout_changes() -> None:
    history = after(3, (0.0, {1}), (10.0, {1}), (20.0, {1}), (86_400.0, {0}))
    assert history.set_apart == {1}


def test_the_last_replica_is_never_set_apart() -> None:
    assert after(1, (0.0, {0}), (10.0, {0}), (20.0, {0})).set_apart == frozenset()
    both = [(0.0, {0}), (10.0, {0}), (20.0, {0}), (30.0, {1}), (40.0, {1}), (50.0, {1})]
    assert after(2, *both).set_apart == {0}


def test_the_log_outweighs_the_order_of_exits() -> None:
    replicas_by_pid = {100: 0, 200: 1}
    assert suspects([200], replicas_by_pid, exited_first=0) == {1}
    assert suspects([], replicas_by_pid, exited_first=0) == {0}
    assert suspects([999], replicas_by_pid, exited_first=0) == {0}
    assert suspects([], replicas_by_pid, exited_first=None) == frozenset()


FAULTS = st.lists(
    st.tuples(
        st.integers(0, 400),  # whole seconds, so that sums are exact
        st.frozensets(st.integers(0, 3), max_size=2),
    ),
    max_size=60,
)


@given(replicas=st.integers(1, 4), steps=FAULTS)
def test_whatever_happens_somebody_may_run_and_nobody_waits_longer_than_a_minute(
    replicas: int, steps: list[tuple[int, frozenset[int]]]
) -> None:
    history = FaultHistory(replicas)
    now_seconds = 0.0
    for waited_seconds, suspected in steps:
        now_seconds += waited_seconds
        before = history
        history = history.with_fault(now_seconds, {one for one in suspected if one < replicas})
        assert 0 < history.restart_at_seconds - now_seconds <= MAX_BACKOFF_SECONDS
        assert len(history.set_apart) < replicas
        assert before.set_apart <= history.set_apart
        assert now_seconds - history.recent[0].at_seconds <= SUSPICION_WINDOW_SECONDS
        for one in history.set_apart - before.set_apart:
            alone = [fault for fault in history.recent if fault.suspects == {one}]
            assert len(alone) >= FAULTS_UNTIL_SET_APART
