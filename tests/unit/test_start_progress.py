"""When a start is given up: by what the engine writes, not by how long it takes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slm_worker.replicas.progress import Overdue, StartDeadlines, StartProgress

DEADLINES = StartDeadlines(silent_seconds=60.0, total_seconds=1000.0)


def start() -> StartProgress:
    return StartProgress(DEADLINES, 0.0)


def reason(overdue: Overdue | None) -> str | None:
    return overdue.reason if overdue else None


def test_a_silent_start_is_given_up_with_its_last_line() -> None:
    progress = start()
    progress.said("Loading weights took 3.2 seconds", 40.0)
    assert progress.overdue(99.9) is None
    overdue = progress.overdue(100.0)
    assert overdue is not None and overdue.reason == "StartStalled"
    assert "for 60 s" in overdue.message and "Loading weights took 3.2 seconds" in overdue.message


def test_a_start_that_never_said_anything_is_given_up_too() -> None:
    overdue = start().overdue(60.0)
    assert overdue is not None and "none at all" in overdue.message


def test_a_start_that_goes_on_is_left_until_the_upper_bound() -> None:
    progress = start()
    for second in range(0, 1000, 50):
        progress.said(f"{second} of 1000 MB", second)
        assert progress.overdue(second + 49) is None
    overdue = progress.overdue(1000.0)
    assert overdue is not None and overdue.reason == "StartTimeout"
    assert "file://" in overdue.message


def test_a_line_that_repeats_is_no_progress_whatever_its_time_and_process() -> None:
    progress = start()
    for minute in range(3):
        progress.said(
            f"(EngineCore pid={minute}) INFO 11-24 08:{minute:02}:17 [utils.py:7] Waiting for 1 "
            "local core engine proc(s) to start.",
            minute * 30.0,
        )
    assert reason(progress.overdue(60.0)) == "StartStalled"


def test_a_progress_bar_is_progress() -> None:
    progress = start()
    progress.said("Loading shards:  50%|#####     | 1/2", 10.0)
    progress.said("Loading shards: 100%|##########| 2/2", 65.0)
    assert progress.overdue(120.0) is None


@given(st.lists(st.tuples(st.floats(0, 59), st.text("ab \n", max_size=3)), max_size=50))
def test_a_start_is_never_stalled_while_something_new_came_within_the_silence(
    steps: list[tuple[float, str]],
) -> None:
    progress, now_seconds = start(), 0.0
    for number, (pause_seconds, text) in enumerate(steps):
        now_seconds += pause_seconds
        progress.said(f"{number} {text}", now_seconds)
        assert reason(progress.overdue(now_seconds + 59.0)) != "StartStalled"
    assert progress.overdue(now_seconds + 60.5) is not None
