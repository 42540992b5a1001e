"""How a replica's place at the router reaches a state."""

from __future__ import annotations

import pytest

from slm_worker.routing.slots import SlotState, state_commands


def test_the_way_to_ready_leads_through_drain() -> None:
    """HAProxy would not count what it hands to a server that leaves maintenance."""
    assert state_commands(3, SlotState.READY) == [
        "set server concentrate/r3 state drain",
        "set server concentrate/r3 state ready",
        "set server spread/r3 state drain",
        "set server spread/r3 state ready",
    ]


@pytest.mark.parametrize("state", [SlotState.DRAIN, SlotState.MAINTENANCE])
def test_any_other_state_is_reached_at_once(state: SlotState) -> None:
    assert state_commands(0, state) == [
        f"set server concentrate/r0 state {state}",
        f"set server spread/r0 state {state}",
    ]
