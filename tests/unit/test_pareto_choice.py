"""Frontier and knee of each objective, on the published measurements and on noise."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import h100, point
from slm_operator.pareto.choice import choose, judge
from slm_operator.pareto.noise import dominates, significantly_more, significantly_thriftier
from slm_operator.pareto.objective import Limits, Objective
from slm_operator.pareto.points import OperatingPoint, Probe

BALANCED = Objective()


def published() -> list[OperatingPoint]:
    return [h100(Probe(4, n, 256)) for n in (1, 2, 3, 4)] + [h100(Probe(1, 1, 512))]


def test_two_replicas_are_the_knee_of_the_published_h100_curve() -> None:
    choice = choose(published(), BALANCED)
    assert choice.chosen.probe.replicas == 2
    assert not choice.throughput_only
    assert [v.point.probe.replicas for v in choice.verdicts if v.on_frontier] == [2]


def test_every_verdict_says_why_with_both_numbers() -> None:
    why = {
        (v.point.probe.replicas, v.point.probe.max_num_seqs): v.why
        for v in choose(published(), BALANCED).verdicts
    }
    assert why[1, 256] == (
        "2 replicas x 256 (of 4 started) serves 10,642 tok/s, 34.9% more than its 7,887"
    )
    assert "10,642 tok/s" in why[1, 512]
    assert why[3, 256].startswith("10,660 tok/s is 0.2% more than the 10,642 of 2 replicas")
    assert why[4, 256] == (
        "0.0441 J/token is 5.9% above the least, 0.0416; maxEnergyIncreasePercent allows 5%"
    )


def test_one_replica_may_win() -> None:
    choice = choose([point(1, 1000, 100), point(2, 1010, 150)], BALANCED)
    assert choice.chosen.probe.replicas == 1


def test_a_gain_below_the_noise_goes_to_fewer_replicas() -> None:
    noisy = [point(1, 1000, 100, confidence=80), point(2, 1060, 100, confidence=80)]
    assert choose(noisy, BALANCED).chosen.probe.replicas == 1
    sure = [point(1, 1000, 100, confidence=5), point(2, 1060, 100, confidence=5)]
    assert choose(sure, BALANCED).chosen.probe.replicas == 2


def test_each_added_replica_must_earn_its_share() -> None:
    points = [point(1, 1000, 100), point(3, 1050, 104)]
    assert choose(points, BALANCED).chosen.probe.replicas == 1


def test_more_throughput_at_too_much_energy_is_refused() -> None:
    points = [point(1, 1000, 100), point(2, 1200, 132)]
    assert choose(points, BALANCED).chosen.probe.replicas == 1
    assert choose(points, Objective(max_energy_increase=0.15)).chosen.probe.replicas == 2


def test_without_power_throughput_alone_decides_and_says_so() -> None:
    choice = choose([point(1, 129), point(2, 249), point(3, 178)], BALANCED)
    assert choice.chosen.probe.replicas == 2
    assert choice.throughput_only
    assert "power is unknown here, so throughput alone decided" in choice.sentence


def test_one_point_without_power_makes_energy_incomparable() -> None:
    assert choose([point(1, 129, 50), point(2, 249)], BALANCED).throughput_only


def test_a_committed_layout_replaces_its_rotation() -> None:
    choice = choose(
        [point(1, 900, 100, layout=4), point(2, 1500, 150, layout=4), point(2, 1400, 150)],
        BALANCED,
    )
    assert choice.chosen.probe == Probe(2, 2, 256)
    assert choice.chosen.output_tokens_per_second == 1400


def test_nothing_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match="no measured point"):
        choose([], BALANCED)


curves = st.lists(
    st.tuples(st.floats(1, 1e5), st.floats(1, 1000), st.floats(0, 100)), min_size=1, max_size=8
).map(lambda rows: [point(i + 1, t, w, confidence=min(c, t)) for i, (t, w, c) in enumerate(rows)])


@given(curves)
def test_the_choice_is_a_candidate_within_the_energy_limit(points: list[OperatingPoint]) -> None:
    choice = choose(points, BALANCED)
    assert choice.chosen in points
    assert sum(v.chosen for v in choice.verdicts) == 1
    assert any(v.on_frontier for v in choice.verdicts)


@given(curves)
def test_precise_points_keep_the_energy_limit(points: list[OperatingPoint]) -> None:
    precise = [replace(p, confidence_tokens_per_second=0.0) for p in points]
    energies = [p.joules_per_output_token or 0 for p in precise]
    chosen = choose(precise, BALANCED).chosen
    assert (chosen.joules_per_output_token or 0) <= min(energies) * 1.05 * (1 + 1e-9)


@given(curves)
def test_order_of_measurement_does_not_matter(points: list[OperatingPoint]) -> None:
    assert choose(points, BALANCED).chosen == choose(points[::-1], BALANCED).chosen


@given(curves)
def test_no_point_dominates_one_that_dominates_it(points: list[OperatingPoint]) -> None:
    for a in points:
        assert not dominates(a, a)
        for b in points:
            assert not (dominates(a, b) and dominates(b, a))


kinds = st.sampled_from(["Balanced", "MaxThroughput", "MinEnergyPerToken"])
objectives = st.builds(Objective, kind=kinds)
limits = st.builds(
    Limits,
    itl_p95_seconds=st.none() | st.floats(0.01, 0.1),
    power_watts=st.none() | st.floats(1, 1000),
)


@given(curves, objectives, limits)
def test_no_chosen_point_breaks_a_limit(
    points: list[OperatingPoint], objective: Objective, limits: Limits
) -> None:
    found = judge(points, objective, limits)
    if found.chosen is None:
        assert all(limits.broken_by(p) for p in points)
    else:
        assert limits.broken_by(found.chosen) is None
    assert all(v.why for v in found.verdicts)


@given(curves, objectives)
def test_no_point_is_better_in_both_ways_with_no_more_replicas(
    points: list[OperatingPoint], objective: Objective
) -> None:
    chosen = choose(points, objective).chosen
    for p in points:
        if p.probe.replicas <= chosen.probe.replicas:
            assert not (significantly_more(chosen, p) and significantly_thriftier(chosen, p))


@given(curves)
def test_the_least_energy_is_chosen_within_the_noise(points: list[OperatingPoint]) -> None:
    chosen = choose(points, Objective(kind="MinEnergyPerToken")).chosen
    assert not any(significantly_thriftier(chosen, p) for p in points)


@given(curves)
def test_the_most_throughput_is_chosen_within_the_noise(points: list[OperatingPoint]) -> None:
    chosen = choose(points, Objective(kind="MaxThroughput")).chosen
    assert not any(significantly_more(chosen, p) for p in points)


@given(curves, st.floats(0, 0.2), st.floats(0, 0.2))
def test_a_greater_wanted_gain_never_adds_replicas(
    points: list[OperatingPoint], one: float, other: float
) -> None:
    lenient, strict = (
        choose(points, Objective(min_throughput_gain=gain, max_energy_increase=10)).chosen
        for gain in sorted((one, other))
    )
    assert strict.probe.replicas <= lenient.probe.replicas
