"""Decisions are made by what the status keeps, so that the next look decides the same."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from builders import service
from decide_world import World
from profile_builders import SEARCH_SECONDS, learned
from slm_operator.api.status import LayoutStatus
from slm_operator.decide import points as shown
from slm_operator.decide.decision import Decision
from slm_operator.decide.profile import Trial
from slm_operator.pareto.objective import Objective
from slm_operator.pareto.points import Probe
from slm_operator.pareto.space import SearchSpace

SPACE = SearchSpace(1, 8, 256, False, Objective())


def standing(decision: Decision) -> tuple[str, LayoutStatus | None]:
    calibration = decision.status.calibration
    assert calibration is not None
    return calibration.phase, calibration.chosen


@given(st.floats(0.0004, 0.01))
@example(0.0009).via("by the unrounded figures three replicas are no rival")
@example(0.0022).via("by the unrounded figures they are not better")
def test_what_ends_a_search_ends_it_at_the_next_look_too(pace: float) -> None:
    """The model is so slow that rounding to whole tokens a second changes who is better."""
    world = World(service())
    world.pace = pace
    for _ in range(2 * SEARCH_SECONDS):
        found = standing(world.tick())
        if found[0] == "Done":
            break
    assert found[0] == "Done"
    assert standing(world.run(5)) == found


def test_a_confirmed_profile_is_judged_by_what_the_status_keeps_of_it() -> None:
    known = shown.read(learned().points)
    knee = next(p for p in known if p.probe == Probe(2, 2, 256))
    faster = replace(knee, output_tokens_per_second=1.017 * knee.output_tokens_per_second)
    adopted, found = Trial(knee, known, "another").judge(shown.kept(faster), SPACE)
    assert found.reason == "ProfileUsed"
    assert adopted == tuple(map(shown.kept, adopted))
