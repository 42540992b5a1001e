"""Each rule by a case in which it decides, and the two numbers that it gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import h100, point
from slm_operator.pareto.choice import candidates, choose, judge
from slm_operator.pareto.noise import NOISE_FLOOR, beyond_doubt
from slm_operator.pareto.objective import NO_LIMITS, Limits, Objective, ObjectiveKind
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.reasons import walk_rulings
from slm_operator.pareto.rulings import Comparison, Quantity, Rule, Ruling
from slm_operator.pareto.search import Measure, SearchSpace, next_step
from slm_operator.pareto.space import LARGER_BATCH

TOKENS = Quantity.OUTPUT_TOKENS_PER_SECOND
ENERGY = Quantity.MICROJOULES_PER_OUTPUT_TOKEN


@dataclass(frozen=True)
class Case:
    """Measured points, and what is said of the last of them."""

    rule: Rule
    points: tuple[OperatingPoint, ...]
    comparison: tuple[Quantity, float, float] | None
    objective: ObjectiveKind = "Balanced"
    limits: Limits = NO_LIMITS
    incumbent: Probe | None = None


ONE = Probe(1, 1, 256)
TWICE = beyond_doubt(1)
"""By what factor confidences are widened where one point might replace what runs."""
CASES = [
    Case(Rule.ONLY_POINT, (point(1, 1000, 100),), None),
    Case(
        Rule.ONLY_POINT,
        (point(2, 1500, 150), point(1, 1000, 100)),
        None,
        limits=Limits(power_watts=120),
    ),
    Case(Rule.STEP_WORTH_IT, (point(1, 1000, 100), point(2, 1500, 150)), (TOKENS, 1500, 1030)),
    Case(
        Rule.STEP_WORTH_IT,
        (point(1, 1000, 100), point(1, 1200, 120, max_num_seqs=512)),
        (TOKENS, 1200, 1000),
    ),
    Case(Rule.FEWER_SUFFICE, (point(2, 1010, 101), point(1, 1000, 100)), (TOKENS, 1000, 1030)),
    Case(
        Rule.FEWER_SUFFICE,
        (point(2, 1010, 101), point(1, 1000, 100, confidence=40)),
        (TOKENS, 1000, 1040),
    ),
    Case(
        Rule.THRIFTIER,
        (point(1, 1000, 100), point(1, 1005, 96, max_num_seqs=512)),
        (ENERGY, 96 / 1005 * 1e6, 100_000),
    ),
    Case(
        Rule.LEAST_ENERGY,
        (point(1, 1000, 110), point(2, 1000, 100)),
        (ENERGY, 100_000, 110_000),
        "MinEnergyPerToken",
    ),
    Case(
        Rule.FEWER_WITHIN_NOISE,
        (point(2, 1000, 99.5), point(1, 1000, 100)),
        (ENERGY, 100_000, 99_500),
        "MinEnergyPerToken",
    ),
    Case(
        Rule.LIMIT_BROKEN,
        (point(1, 1000, 100), point(2, 1500, 150)),
        (Quantity.POWER_WATTS, 150, 120),
        limits=Limits(power_watts=120),
    ),
    Case(
        Rule.BENEFIT_OF_DOUBT,
        (point(2, 1050, 104, confidence=30), point(1, 1000, 100, confidence=30)),
        (TOKENS, 1000, 1050),
        incumbent=ONE,
    ),
    Case(
        Rule.NOT_BEYOND_DOUBT,
        (point(1, 1000, 100, confidence=30), point(2, 1050, 104, confidence=30)),
        (TOKENS, 1050, 1.03 * (1000 + TWICE * math.hypot(30, 30))),
        incumbent=ONE,
    ),
    Case(
        Rule.NOT_BEYOND_DOUBT,
        (point(1, 1000, 100), point(2, 1500, 157)),
        (ENERGY, 157 / 1500 * 1e6, 100_000 * (1.05 - NOISE_FLOOR)),
        incumbent=ONE,
    ),
    Case(
        Rule.NOT_BEYOND_DOUBT,
        (point(1, 1000, 100, confidence=10), point(2, 1000, 98, confidence=10)),
        (ENERGY, 98_000, 100_000 * (1 - TWICE * math.hypot(0.01, 0.01))),
        "MinEnergyPerToken",
        incumbent=ONE,
    ),
    Case(
        Rule.LIMIT_BROKEN,
        (replace(point(2, 1500, 150), preemptions_per_request=0.3),),
        (Quantity.PREEMPTIONS_PER_HUNDRED_REQUESTS, 30, 10),
        limits=Limits(preemptions_per_request=0.1),
    ),
    Case(
        Rule.LIMIT_BROKEN,
        (point(1, 1000, 100),),
        (Quantity.ITL_P95_MICROSECONDS, 37_000, 30_000),
        limits=Limits(itl_p95_seconds=0.030),
    ),
    Case(
        Rule.LIMIT_BROKEN,
        (point(1, 1000, 100),),
        (Quantity.TTFT_P95_MICROSECONDS, 350_000, 200_000),
        limits=Limits(ttft_p95_seconds=0.200),
    ),
    Case(
        Rule.ENERGY_ABOVE_LIMIT,
        (point(1, 1000, 100), point(2, 1200, 132)),
        (ENERGY, 110_000, 105_000),
    ),
    Case(Rule.LESS_THROUGHPUT, (point(2, 1500, 150), point(1, 1000, 100)), (TOKENS, 1000, 1500)),
    Case(Rule.GAIN_TOO_SMALL, (point(1, 1000, 100), point(2, 1020, 102)), (TOKENS, 1020, 1030)),
    Case(
        Rule.GAIN_WITHIN_NOISE,
        (point(1, 1000, 100, confidence=40), point(2, 1035, 103.5, confidence=30)),
        (TOKENS, 1035, 1050),
    ),
    Case(
        Rule.MORE_ENERGY,
        (point(1, 1000, 100, confidence=10), point(2, 1005, 104)),
        (ENERGY, 104 / 1005 * 1e6, 100_000),
        "MaxThroughput",
    ),
    Case(
        Rule.MORE_ENERGY,
        (point(1, 1000, 100), point(2, 1500, 180)),
        (ENERGY, 120_000, 100_000),
        "MinEnergyPerToken",
    ),
    Case(
        Rule.ENERGY_NOT_LESS,
        (point(1, 1000, 100), point(2, 1500, 150.5)),
        (ENERGY, 150.5 / 1500 * 1e6, 100_000),
        "MinEnergyPerToken",
    ),
]


def said_of(case: Case, one: OperatingPoint) -> Ruling:
    found = judge(case.points, Objective(case.objective), case.limits, incumbent=case.incumbent)
    (ruling,) = [v.ruling for v in found.verdicts if v.point is one]
    return ruling


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule.value)
def test_the_rule_that_decides_is_named_with_both_of_its_numbers(case: Case) -> None:
    ruling = said_of(case, case.points[-1])
    assert ruling.rule is case.rule, ruling.text
    if case.comparison is None:
        assert ruling.comparison is None
    else:
        quantity, value, bound = case.comparison
        assert ruling.comparison is not None
        assert ruling.comparison.quantity is quantity
        assert (ruling.comparison.value, ruling.comparison.bound) == pytest.approx((value, bound))


def test_where_none_keeps_the_limits_the_nearest_is_told_with_the_limit_that_it_breaks() -> None:
    points = [point(1, 1000, 100), point(2, 1500, 150)]
    found = choose(points, Objective(), Limits(power_watts=90))
    (ruling,) = [v.ruling for v in found.verdicts if v.chosen]
    assert ruling.rule is Rule.NEAREST_TO_LIMITS
    assert ruling.comparison == Comparison(Quantity.POWER_WATTS, 100, 90)


def test_the_walk_tells_how_it_began_went_on_and_stopped() -> None:
    walked = [h100(Probe(4, n, 256)) for n in (1, 2, 3)]
    rulings = walk_rulings(walked, Objective())
    assert [rulings[p.probe].rule for p in walked] == [
        Rule.WALK_BEGAN,
        Rule.WALK_WENT_ON,
        Rule.WALK_STOPPED,
    ]
    assert rulings[walked[1].probe].comparison == Comparison(TOKENS, 10641.9, 7886.7 * 1.03)
    assert rulings[walked[2].probe].comparison == Comparison(TOKENS, 10660.0, 10641.9 * 1.03)


def steps(space: SearchSpace, curve: Callable[[Probe], OperatingPoint]) -> list[Rule]:
    points: tuple[OperatingPoint, ...] = ()
    rules = []
    while isinstance(step := next_step(space, points), Measure):
        rules.append(step.rule)
        points = (*points, curve(step.probe))
    return rules


def space(**changes: bool | frozenset[tuple[int, int]] | Limits) -> SearchSpace:
    values = {"batch_is_free": True, "objective": Objective()} | changes
    return SearchSpace(1, 3, 256, **values)  # type: ignore[arg-type]


def flat(probe: Probe) -> OperatingPoint:
    """Only the larger batch helps."""
    larger = probe.max_num_seqs == LARGER_BATCH
    return point(
        probe.replicas,
        1200 if larger else 1000,
        120 if larger else 100,
        layout=probe.layout_replicas,
        max_num_seqs=probe.max_num_seqs,
    )


def test_each_step_of_the_search_names_its_rule() -> None:
    walk = [Rule.NEXT_IN_ROTATION] * 2
    assert steps(space(), h100) == [*walk, Rule.LARGER_BATCH, Rule.OWN_LAYOUT]
    with_a_fixed_batch = steps(space(batch_is_free=False), h100)
    assert with_a_fixed_batch == [*walk, Rule.FEWER_IN_OWN_LAYOUT, Rule.OWN_LAYOUT]
    assert steps(space(), flat)[2:] == [Rule.LARGER_BATCH, Rule.OWN_LAYOUT, Rule.SMALLER_BATCH]
    nothing_alone = space(
        batch_is_free=False,
        unstartable=frozenset({(1, 256), (2, 256)}),
        limits=Limits(power_watts=1),
    )
    assert steps(nothing_alone, flat) == [Rule.NEXT_IN_ROTATION, Rule.WHAT_STARTS]


curves = st.lists(
    st.tuples(
        st.floats(1, 1e5),
        st.none() | st.floats(0, 1000),
        st.floats(0, 0.2),
        st.sampled_from([64, 256, 512]),
    ),
    min_size=1,
    max_size=8,
).map(
    lambda rows: [
        point(i + 1, tokens, watts, confidence=tokens * share, max_num_seqs=batch)
        for i, (tokens, watts, share, batch) in enumerate(rows)
    ]
)
objectives = st.builds(
    Objective,
    kind=st.sampled_from(["Balanced", "MaxThroughput", "MinEnergyPerToken"]),
    min_throughput_gain=st.floats(0, 0.5),
    max_energy_increase=st.floats(0, 0.5),
)
limits = st.builds(
    Limits,
    itl_p95_seconds=st.none() | st.floats(0.01, 0.1),
    power_watts=st.none() | st.floats(1, 1000),
)
incumbents = st.none() | st.builds(
    Probe, st.just(1), st.integers(1, 8), st.sampled_from([64, 256, 512])
)
MUST_REACH = {Rule.FEWER_SUFFICE, Rule.LESS_THROUGHPUT, Rule.GAIN_TOO_SMALL, Rule.GAIN_WITHIN_NOISE}
SERVES_ENOUGH = {Rule.STEP_WORTH_IT}
SPENDS_LITTLE = {Rule.LEAST_ENERGY, Rule.THRIFTIER}
MUST_NOT_PASS = {Rule.LIMIT_BROKEN, Rule.ENERGY_ABOVE_LIMIT, Rule.MORE_ENERGY}


@given(curves, objectives, limits, incumbents)
def test_a_rulings_numbers_are_those_of_its_point_and_on_the_side_that_it_says(
    points: list[OperatingPoint], objective: Objective, limits: Limits, incumbent: Probe | None
) -> None:
    found = judge(points, objective, limits, incumbent=incumbent)
    assert [v.point for v in found.verdicts] == candidates(points)
    for verdict in found.verdicts:
        rule, comparison = verdict.ruling.rule, verdict.ruling.comparison
        if comparison is None:
            continue
        assert comparison.value == comparison.quantity.of(verdict.point)
        if rule in MUST_REACH:
            assert comparison.value <= comparison.bound
        if rule in MUST_NOT_PASS:
            assert comparison.value >= comparison.bound
        if rule is Rule.NOT_BEYOND_DOUBT and comparison.quantity is TOKENS:
            assert comparison.value <= comparison.bound
        if rule is Rule.NOT_BEYOND_DOUBT and comparison.quantity is ENERGY:
            assert comparison.value >= comparison.bound
        if rule in SERVES_ENOUGH:
            assert comparison.value >= comparison.bound
        if rule in SPENDS_LITTLE:
            assert comparison.value <= comparison.bound
