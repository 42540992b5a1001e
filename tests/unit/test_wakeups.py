"""What wakes a service's loop."""

from __future__ import annotations

from slm_operator.main import Wakeups


def test_a_change_wakes_the_loop_of_its_service() -> None:
    wakeups = Wakeups()
    event, other = wakeups.of("default", "chat"), wakeups.of("default", "other")
    wakeups.wake("default", "chat")
    assert (event.is_set(), other.is_set()) == (True, False)


def test_a_late_change_of_a_dropped_service_leaves_nothing_behind() -> None:
    wakeups = Wakeups()
    wakeups.of("default", "chat")
    wakeups.drop("default", "chat")
    wakeups.wake("default", "chat")
    assert wakeups == Wakeups()
