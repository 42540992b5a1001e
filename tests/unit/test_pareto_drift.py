"""A second window of a probe: more certainty, or proof that the pack changed in between."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import point
from slm_operator.pareto.drift import learned
from slm_operator.pareto.objective import Objective
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.rulings import Rule
from slm_operator.pareto.search import Measure, SearchSpace, Settle, next_step, running_layout

SPACE = SearchSpace(1, 2, 256, batch_is_free=False, objective=Objective())
ONE, TWO = Probe(1, 1, 256), Probe(2, 2, 256)


def at(minute: int, replicas: int, tokens: float, watts: float = 100) -> OperatingPoint:
    time = f"2026-01-01T00:{minute:02}:00Z"
    return point(replicas, tokens, watts, confidence=tokens * 0.01, measured_at=time)


def test_a_new_probe_is_added() -> None:
    assert learned([at(0, 1, 1000)], at(1, 2, 1500)) == (at(0, 1, 1000), at(1, 2, 1500))


def test_windows_that_agree_are_pooled_and_nothing_else_changes() -> None:
    kept, pooled = learned([at(0, 1, 1000), at(1, 2, 1500)], at(2, 1, 1010))
    assert kept == at(1, 2, 1500)
    assert (pooled.output_tokens_per_second, pooled.runs) == (1005, 2)
    assert pooled.confidence_tokens_per_second < 10


def test_what_lies_between_two_windows_that_differ_is_taken_relative_to_their_mean() -> None:
    """One replica served 1,000 before and 800 after: at the mean of 900, two served 1,350."""
    two, one = learned([at(0, 1, 1000), at(1, 2, 1350, 150)], at(2, 1, 800, 80))
    assert one == at(2, 1, 800, 80)
    assert two.output_tokens_per_second == pytest.approx(1350 * 800 / 900)
    assert two.power_watts == pytest.approx(150 * 80 / 90)
    assert two.confidence_tokens_per_second > 1200 * 0.1, "when it changed is unknown"
    assert two.measured_at == one.measured_at


def test_what_is_older_than_both_is_measured_anew() -> None:
    known = [at(0, 2, 1500), at(1, 1, 1000)]
    assert learned(known, at(2, 1, 800)) == (at(2, 1, 800),)


def test_the_incumbent_is_measured_again_before_it_is_replaced() -> None:
    known = (at(0, 1, 1000), at(1, 2, 1500, 140))
    step = next_step(SPACE, known, incumbent=ONE)
    assert isinstance(step, Measure)
    assert (step.probe, step.rule) == (ONE, Rule.INCUMBENT_AGAIN)
    end = next_step(SPACE, learned(known, at(2, 1, 1005)), incumbent=ONE)
    assert isinstance(end, Settle)
    assert running_layout(end.choice) == TWO


def test_a_gain_that_was_drift_replaces_nothing() -> None:
    """The GPU became a half faster, and so did both counts."""
    known = (at(0, 1, 1000), at(1, 2, 1500, 140))
    after = learned(known, at(2, 1, 1500, 150))
    end = next_step(SPACE, after, incumbent=ONE)
    assert isinstance(end, Settle)
    assert running_layout(end.choice) == ONE


def test_an_incumbent_that_stays_is_not_measured_again() -> None:
    known = (at(0, 1, 1000), at(1, 2, 1010, 140))
    assert isinstance(next_step(SPACE, known, incumbent=ONE), Settle)


def test_a_first_choice_has_no_incumbent_to_measure_again() -> None:
    known = (at(0, 2, 1500, 140), at(1, 1, 1000))
    assert isinstance(next_step(SPACE, known), Settle)


def test_a_probe_of_an_ended_search_keeps_its_place() -> None:
    known = (replace(at(0, 1, 1000), runs=3),)
    (pooled,) = learned(known, at(1, 1, 1000))
    assert pooled.runs == 4
