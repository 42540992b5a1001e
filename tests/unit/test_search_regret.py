"""The search on noisy windows of the published curves: a sample of the benchmark's study."""

from __future__ import annotations

from functools import cache

import pytest

from benchmarks.search_curves import Curve, measured_curves
from benchmarks.search_regret import regret, search, summary
from slm_operator.pareto.points import Probe

SEEDS = 30


@cache
def curves() -> dict[str, Curve]:
    return {c.name: c for c in measured_curves("Balanced")}


def replication() -> Curve:
    return curves()["OPT-1.3B, 256 sequences, 1-4 replicas, Balanced"]


def test_without_noise_the_published_knee_is_found_in_four_windows() -> None:
    outcome = search(replication(), 0.0, seed=1)
    assert outcome.chosen == Probe(2, 2, 256)
    assert (outcome.regret, outcome.probes) == (0.0, 4)


def test_at_three_percent_of_noise_the_search_ends_near_the_best_after_few_windows() -> None:
    outcomes = [
        search(c, 0.03, seed)
        for c in curves().values()
        if c.group == "measured"
        for seed in range(SEEDS)
    ]
    found = summary(outcomes)
    assert found["regret_median_percent"] <= 1
    assert found["regret_p95_percent"] <= 3
    assert found["probes_median"] <= 5


def test_regret_is_what_the_objective_loses() -> None:
    """One replica serves 7,887 tok/s and two 10,642, of which the second has to earn 3 %."""
    assert regret(replication(), Probe(2, 2, 256)) == 0
    assert regret(replication(), Probe(1, 1, 256)) == pytest.approx(
        1 - 7886.7 * 1.03 / 10641.9, abs=1e-4
    )


def test_energy_beyond_the_limit_is_regret_too() -> None:
    """Four replicas serve 10,679 tok/s at 5.9 % more than the least energy per token."""
    lost = 1 - 10678.7 / 10641.9 / 1.03**2
    beyond = (471.0 / 10678.7) / (443.1 / 10641.9 * 1.05) - 1
    assert regret(replication(), Probe(4, 4, 256)) == pytest.approx(lost + beyond, abs=1e-4)


def test_a_wrong_expectation_costs_windows_and_not_the_knee() -> None:
    for guess in (Probe(1, 1, 256), Probe(4, 4, 256)):
        outcome = search(replication(), 0.0, seed=1, expected=guess)
        assert outcome.chosen == Probe(2, 2, 256), guess
        assert outcome.probes <= 6
