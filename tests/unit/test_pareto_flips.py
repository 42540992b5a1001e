"""Measuring the same truth again does not move replicas about; a real change does."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean, stdev

import pytest

from builders import point
from slm_operator.pareto.choice import choose, judge
from slm_operator.pareto.confidence import T_QUANTILES
from slm_operator.pareto.noise import beyond_doubt
from slm_operator.pareto.objective import Limits, Objective, ObjectiveKind
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.rulings import Rule

NOISE = 0.05
BATCHES = 10

Measure = Callable[[random.Random, OperatingPoint], OperatingPoint]

TRUTHS = {
    "published H100": [
        point(1, 7886.7, 335.1),
        point(2, 10641.9, 443.1),
        point(4, 10678.7, 471.0),
        point(1, 7956.4, 327.8, max_num_seqs=768),
        point(1, 6616.7, 323.4, max_num_seqs=96),
        point(2, 8933.3, 408.3, max_num_seqs=96),
        point(4, 9555.6, 446.8, max_num_seqs=96),
    ],
    "flat": [point(n, 1000, 100) for n in range(1, 5)],
    "each replica worth just what it must": [
        point(n, 1000 * 1.03**n, 100 * 1.03**n) for n in range(1, 5)
    ],
    "energy just at the limit": [point(1, 1000, 100), point(2, 1400, 147)],
    "energy just above the limit": [point(1, 1000, 100), point(2, 1400, 147.1)],
    "without power": [point(n, 1000 + 30 * n) for n in range(1, 5)],
}


def known_noise(dice: random.Random, truth: OperatingPoint) -> OperatingPoint:
    """A measurement whose stated confidence is the noise it has."""
    tokens = truth.output_tokens_per_second * dice.gauss(1, NOISE)
    return replace(
        truth, output_tokens_per_second=tokens, confidence_tokens_per_second=1.96 * NOISE * tokens
    )


def noisy_power(dice: random.Random, truth: OperatingPoint) -> OperatingPoint:
    """Power that is as noisy, and says so."""
    watts = truth.power_watts
    return replace(
        known_noise(dice, truth),
        power_watts=None if watts is None else watts * dice.gauss(1, NOISE),
        energy_confidence=1.96 * NOISE * 2**0.5,
    )


def batch_means(dice: random.Random, truth: OperatingPoint) -> OperatingPoint:
    """A window whose confidence is estimated from ten batches of it, as the operator does; the
    window's mean has the noise."""
    rates = [
        truth.output_tokens_per_second * dice.gauss(1, NOISE * BATCHES**0.5) for _ in range(BATCHES)
    ]
    half_width = T_QUANTILES[BATCHES - 2] * stdev(rates) / BATCHES**0.5
    return replace(
        truth, output_tokens_per_second=fmean(rates), confidence_tokens_per_second=half_width
    )


@pytest.mark.parametrize("measure", [known_noise, noisy_power, batch_means])
@pytest.mark.parametrize("name", TRUTHS)
def test_the_choice_flips_at_most_once_in_a_thousand_repeated_measurements(
    name: str, measure: Measure
) -> None:
    truth = TRUTHS[name]
    chosen = choose(truth, Objective()).chosen.probe
    assert flips(truth, Objective(), measure, chosen) <= 1


@pytest.mark.parametrize("kind", ["MaxThroughput", "MinEnergyPerToken"])
@pytest.mark.parametrize("name", ["published H100", "flat"])
def test_nor_does_it_for_the_other_objectives(name: str, kind: ObjectiveKind) -> None:
    truth, objective = TRUTHS[name], Objective(kind=kind)
    chosen = choose(truth, objective).chosen.probe
    assert flips(truth, objective, noisy_power, chosen) <= 1


def flips(
    truth: Sequence[OperatingPoint],
    objective: Objective,
    measure: Measure,
    incumbent: Probe | None,
    times: int = 1000,
) -> int:
    dice = random.Random(7)
    return sum(
        choose([measure(dice, p) for p in truth], objective, incumbent=incumbent).chosen.probe
        != (incumbent or choose(truth, objective).chosen.probe)
        for _ in range(times)
    )


def test_without_an_incumbent_the_same_noise_flips_often() -> None:
    """What the tests above would find if nothing held the choice."""
    assert flips(TRUTHS["flat"], Objective(), known_noise, None) > 10


def test_a_first_choice_by_chance_does_not_wander_either() -> None:
    dice = random.Random(3)
    truth, moves = TRUTHS["published H100"], 0
    runs = choose([noisy_power(dice, p) for p in truth], Objective()).chosen.probe
    for _ in range(1000):
        new = choose([noisy_power(dice, p) for p in truth], Objective(), incumbent=runs)
        moves += new.chosen.probe != runs
        runs = new.chosen.probe
    assert moves <= 1


def test_a_clear_gain_displaces_what_runs() -> None:
    precise = [replace(p, confidence_tokens_per_second=50) for p in TRUTHS["published H100"]]
    for incumbent in (Probe(1, 1, 256), Probe(4, 4, 256), Probe(1, 1, 96)):
        found = choose(precise, Objective(), incumbent=incumbent)
        assert found.chosen.probe == Probe(2, 2, 256), incumbent


def test_a_gain_within_the_doubt_does_not_and_the_reason_says_so() -> None:
    points = [point(1, 1000, 100, confidence=30), point(2, 1080, 105, confidence=30)]
    assert choose(points, Objective()).chosen.probe.replicas == 2
    found = choose(points, Objective(), incumbent=Probe(1, 1, 256))
    assert found.chosen.probe.replicas == 1
    kept, doubtful = (v.ruling for v in found.verdicts)
    assert (kept.rule, doubtful.rule) == (Rule.BENEFIT_OF_DOUBT, Rule.NOT_BEYOND_DOUBT)
    assert doubtful.text == (
        "1,080 tok/s and 0.0972 J/token are not better beyond doubt than the 1,000 and "
        "0.1000 J/token of 1 replica x 256, which runs"
    )
    assert doubtful.comparison is not None
    assert doubtful.comparison.value == 1080 < doubtful.comparison.bound


def test_what_breaks_a_limit_loses_at_once() -> None:
    points = [point(1, 1000, 300, confidence=100), point(2, 1001, 401, confidence=100)]
    found = judge(points, Objective(), Limits(power_watts=400), incumbent=Probe(2, 2, 256))
    assert found.chosen is not None
    assert found.chosen.probe.replicas == 1


def test_what_costs_too_much_beyond_doubt_loses() -> None:
    points = [point(1, 1000, 100), point(2, 1400, 180)]
    found = choose(points, Objective(), incumbent=Probe(2, 2, 256))
    assert found.chosen.probe.replicas == 1
    assert "28.6% above the least" in found.verdicts[1].why


def test_what_runs_but_was_never_measured_holds_nothing() -> None:
    points = [point(1, 1000, 100), point(2, 1400, 140)]
    assert choose(points, Objective(), incumbent=Probe(3, 3, 256)).chosen.probe.replicas == 2


def test_doubt_grows_with_the_number_of_alternatives() -> None:
    factors = [beyond_doubt(n) for n in (1, 3, 10, 30)]
    assert factors == sorted(factors)
    assert 1.7 < factors[0] < factors[-1] < 4
