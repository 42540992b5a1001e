"""Runs of one point are pooled, with a confidence that their spread tells."""

from __future__ import annotations

import random
from dataclasses import replace
from statistics import fmean, variance

import pytest

from builders import point
from slm_operator.pareto.confidence import T_QUANTILES
from slm_operator.pareto.noise import student_t
from slm_operator.pareto.points import OperatingPoint
from slm_operator.pareto.repeats import (
    POOLED_SECONDS,
    PRIOR_ENERGY_SPREAD,
    PRIOR_THROUGHPUT_SPREAD,
    pooled,
    with_window,
)
from slm_worker.planning.measured import rows


def test_single_runs_stay_as_they_are() -> None:
    runs = [point(1, 1000, 100), point(2, 1500, 150)]
    assert pooled(runs) == runs


def test_repeats_become_their_mean() -> None:
    (mean,) = pooled([point(1, 990, 100), point(1, 1010, 104)])
    assert (mean.output_tokens_per_second, mean.power_watts, mean.runs) == (1000, 102, 2)


def test_repeats_tell_how_noisy_single_runs_are() -> None:
    runs = [point(1, 900, 100), point(1, 1000, 100), point(1, 1100, 100), point(2, 1500, 150)]
    repeated, single = pooled(runs)
    share = [
        p.confidence_tokens_per_second / p.output_tokens_per_second for p in (repeated, single)
    ]
    assert share[1] == pytest.approx(share[0] * 3**0.5)
    assert 0.1 < share[1] < 0.25


def test_two_runs_that_happen_to_agree_are_no_proof_of_precision() -> None:
    (mean,) = pooled([point(1, 1000, 100), point(1, 1000, 100)])
    assert mean.confidence_tokens_per_second > 5


def test_an_unknown_power_is_left_out_of_the_mean() -> None:
    (mean,) = pooled([point(1, 1000, 100), point(1, 1000, None)])
    assert mean.power_watts == 100


def test_the_confidence_of_repeats_covers_the_truth_nineteen_times_in_twenty() -> None:
    dice = random.Random(1)
    covered = 0
    for _ in range(2000):
        mean = pooled([point(1, dice.gauss(1000, 50), 100) for _ in range(6)])[0]
        covered += abs(mean.output_tokens_per_second - 1000) <= mean.confidence_tokens_per_second
    # The prior holds noise for smaller than these 5 %: it weighs as much as four of six runs.
    assert 0.85 < covered / 2000 < 0.97


def test_the_prior_is_the_spread_of_the_published_repeats() -> None:
    spread = {"throughput": 0.0, "energy": 0.0}
    repeats = 0
    for batch in (96, 256, 768):
        runs = [
            r
            for r in rows()
            if (r.model, r.replicas, r.max_num_seqs) == ("opt-1.3b", 1, batch)
            and not r.chunked_prefill
        ]
        assert len(runs) == 2
        repeats += 1
        for name, values in (
            ("throughput", [r.tokens_per_second for r in runs]),
            ("energy", [r.watts / r.tokens_per_second for r in runs]),
        ):
            spread[name] += variance(values) / fmean(values) ** 2
    assert (spread["throughput"] / repeats) ** 0.5 == pytest.approx(
        PRIOR_THROUGHPUT_SPREAD, rel=0.02
    )
    assert (spread["energy"] / repeats) ** 0.5 == pytest.approx(PRIOR_ENERGY_SPREAD, rel=0.02)


@pytest.mark.parametrize("freedom", range(4, 31))
def test_quantiles_are_those_of_the_table(freedom: int) -> None:
    assert student_t(0.975, freedom) == pytest.approx(T_QUANTILES[freedom - 1], rel=2e-3)


def test_a_far_quantile_is_that_of_the_table() -> None:
    """Nine degrees of freedom: 4.781 at 99.95 % (any statistics textbook)."""
    assert student_t(0.9995, 9) == pytest.approx(4.781, rel=5e-3)


def window(tokens: float, seconds: float = 60, confidence: float = 30) -> OperatingPoint:
    return replace(point(1, tokens, 100, confidence=confidence), window_seconds=seconds)


def test_a_further_window_is_weighed_by_its_length_and_adds_certainty() -> None:
    both = with_window(window(1000, 120, 20), window(1030, 60, 30))
    assert both.output_tokens_per_second == pytest.approx(1010)
    assert both.confidence_tokens_per_second == pytest.approx((13.33**2 + 10**2) ** 0.5, rel=1e-3)
    assert (both.window_seconds, both.runs) == (180, 2)


def test_old_windows_fade() -> None:
    held = window(1000)
    for _ in range(100):
        held = with_window(held, window(1000))
    assert held.window_seconds == POOLED_SECONDS
    moved = with_window(held, window(1020))
    assert moved.output_tokens_per_second == pytest.approx(1002)
