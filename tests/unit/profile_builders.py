"""Profiles as a finished search leaves them."""

from __future__ import annotations

from typing import Any

from builders import service
from decide_world import World
from slm_operator.decide.profile_record import Profile

NOW = "2026-01-01T01:00:00Z"
SEARCH_SECONDS = 60


def learned(spec: dict[str, Any] | None = None) -> Profile:
    """What a finished search leaves."""
    world = World(service(spec))
    for _ in range(SEARCH_SECONDS):
        if (decision := world.tick()).profile is not None:
            return decision.profile
    raise AssertionError("the search did not end")
