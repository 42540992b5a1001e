"""The search under limits, with an open batch, with an expectation, and with a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from builders import point
from slm_operator.pareto.drift import learned
from slm_operator.pareto.objective import Limits, Objective
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.rulings import Rule
from slm_operator.pareto.search import Measure, SearchSpace, Settle, next_step, running_layout
from slm_operator.pareto.space import LARGER_BATCH, MAX_PROBES, SMALLER_BATCHES, next_smaller

OPEN = SearchSpace(1, 4, 256, batch_is_free=True, objective=Objective())
FIXED = replace(OPEN, batch_is_free=False)
Curve = Callable[[Probe], OperatingPoint]


def served(probe: Probe) -> OperatingPoint:
    """Two replicas are worth it, and ITL and power grow with replicas and batch."""
    tokens = {1: 1000, 2: 1400, 3: 1410, 4: 1415}[probe.replicas] * (
        probe.max_num_seqs / 256
    ) ** 0.3
    running = probe.replicas * probe.max_num_seqs
    return replace(
        point(
            probe.replicas,
            tokens,
            300 + running / 4,
            layout=probe.layout_replicas,
            max_num_seqs=probe.max_num_seqs,
        ),
        itl_p95_seconds=0.005 + running / 10_000,
    )


def steps(space: SearchSpace, curve: Curve, limit: int = 40) -> tuple[list[Measure], Settle]:
    points: tuple[OperatingPoint, ...] = ()
    found: list[Measure] = []
    while isinstance(step := next_step(space, points), Measure):
        found.append(step)
        points = learned(points, curve(step.probe))
        assert len(found) < limit
    return found, step


def test_a_latency_that_the_usual_batch_breaks_is_met_by_a_smaller_one() -> None:
    """ITL is 56 ms with two replicas of 256 sequences, 30.6 with 128, 24.2 with 96."""
    space = replace(OPEN, limits=Limits(itl_p95_seconds=0.025))
    measured, end = steps(space, served)
    assert [m.probe.max_num_seqs for m in measured[:2]] == [256, 96]
    assert measured[1].rule is Rule.SMALLER_BATCH
    assert "ITL p95 56.2 ms exceeds the limit of 25.0 ms" in measured[1].why
    assert running_layout(end.choice) == Probe(2, 2, 96)
    assert end.choice.broken is None


def test_a_smaller_batch_that_starts_with_no_count_leaves_its_place_to_the_next() -> None:
    dead = frozenset((replicas, 96) for replicas in range(1, 5))
    space = replace(OPEN, limits=Limits(itl_p95_seconds=0.025), unstartable=dead)
    measured, end = steps(space, served)
    assert [m.probe.max_num_seqs for m in measured[:2]] == [256, 64]
    assert not any(space.fails(m.probe) for m in measured)
    assert running_layout(end.choice) == Probe(2, 2, 64)


def test_where_no_smaller_batch_starts_the_usual_one_is_taken_with_fewer_replicas() -> None:
    dead = frozenset((n, batch) for n in range(1, 5) for batch in SMALLER_BATCHES)
    space = replace(OPEN, limits=Limits(itl_p95_seconds=0.032), unstartable=dead)
    measured, end = steps(space, served)
    assert not any(space.fails(m.probe) for m in measured)
    assert running_layout(end.choice) == Probe(1, 1, 256)


def test_a_power_budget_is_met_by_a_smaller_batch_too() -> None:
    space = replace(OPEN, limits=Limits(power_watts=400))
    _, end = steps(space, served)
    assert running_layout(end.choice).max_num_seqs < 256
    assert (end.choice.chosen.power_watts or 0) <= 400


def test_a_fixed_batch_gives_way_in_replicas_instead() -> None:
    space = replace(FIXED, limits=Limits(itl_p95_seconds=0.040))
    measured, end = steps(space, served)
    assert [m.probe for m in measured] == [Probe(3, 2, 256), Probe(1, 1, 256)]
    assert running_layout(end.choice) == Probe(1, 1, 256)


def test_limits_that_nothing_keeps_end_with_the_nearest_point() -> None:
    space = replace(OPEN, limits=Limits(itl_p95_seconds=0.001))
    measured, end = steps(space, served)
    assert end.choice.broken is not None
    assert end.choice.chosen.probe.replicas == 1
    assert len(measured) <= MAX_PROBES


def test_the_smaller_batch_is_the_one_that_should_keep_the_limit() -> None:
    over = replace(point(2, 1000, 100), itl_p95_seconds=0.100)
    batches = (256, 192, 128, 96, 64)
    assert next_smaller(batches, over, Limits(itl_p95_seconds=0.080)) == 192
    assert next_smaller(batches, over, Limits(itl_p95_seconds=0.050)) == 128
    assert next_smaller(batches, over, Limits(itl_p95_seconds=0.001)) == 64
    least = replace(over, probe=Probe(2, 2, 64))
    assert next_smaller(batches, least, Limits(itl_p95_seconds=0.050)) is None


def test_a_batch_that_the_kv_cache_has_no_room_for_is_tried_smaller() -> None:
    """One replica only; 256 sequences are preempted, 192 are not and serve as much."""

    def curve(probe: Probe) -> OperatingPoint:
        full = probe.max_num_seqs > 192
        tokens = 1000.0 if full else 1050.0
        found = point(probe.replicas, tokens, 110 if full else 100, max_num_seqs=probe.max_num_seqs)
        return replace(found, preemptions_per_request=0.3 if full else 0.0)

    measured, end = steps(replace(OPEN, max_replicas=1), curve)
    assert [m.probe.max_num_seqs for m in measured] == [256, LARGER_BATCH, 192]
    assert measured[-1].why == (
        "the KV cache of 1 replica x 256 ran full, 0.30 preemptions a request"
    )
    assert running_layout(end.choice) == Probe(1, 1, 192)


def test_what_is_expected_is_measured_first_and_decides_nothing() -> None:
    measured, end = steps(replace(FIXED, expected=Probe(3, 3, 256)), served)
    assert [m.probe for m in measured[:2]] == [Probe(4, 3, 256), Probe(4, 4, 256)]
    assert running_layout(end.choice) == Probe(2, 2, 256)
    few, _ = steps(replace(FIXED, expected=Probe(1, 1, 256)), served)
    assert few[0].probe == Probe(2, 1, 256)


def test_a_step_in_doubt_gets_further_windows_until_it_is_decided() -> None:
    """The second replica gains a tenth, and a window is off by as much."""

    def curve(probe: Probe) -> OperatingPoint:
        tokens = {1: 1000.0, 2: 1100.0, 3: 1101.0, 4: 1101.0}[probe.replicas]
        return point(probe.replicas, tokens, 100, confidence=90, layout=probe.layout_replicas)

    measured, end = steps(replace(FIXED, max_replicas=2), curve)
    again = [m for m in measured if m.rule is Rule.RIVAL_AGAIN]
    assert 1 <= len(again) <= 6
    assert running_layout(end.choice) == Probe(2, 2, 256)
    assert end.choice.chosen.runs > 1


def test_the_budget_of_windows_ends_a_search_with_the_best_known() -> None:
    space = replace(OPEN, max_probes=2)
    measured, end = steps(space, served)
    assert len(measured) == 2
    assert "the search was cut short after 2 windows" in end.choice.sentence


def test_out_of_time_ends_it_too_but_never_without_a_point() -> None:
    first = next_step(OPEN, (), out_of_time=True)
    assert isinstance(first, Measure)
    end = next_step(OPEN, (served(first.probe),), out_of_time=True)
    assert isinstance(end, Settle)
    assert "cut short" in end.choice.sentence


kinds = st.sampled_from(["Balanced", "MaxThroughput", "MinEnergyPerToken"])
surfaces = st.lists(
    st.tuples(st.floats(10, 1e5), st.floats(50, 700), st.floats(0, 0.5), st.floats(0.001, 0.2)),
    min_size=4,
    max_size=4,
)


@given(
    surfaces,
    st.floats(0.01, 1.0),
    kinds,
    st.booleans(),
    st.none() | st.floats(0.001, 0.2),
    st.none() | st.integers(1, 4),
    st.frozensets(st.tuples(st.integers(1, 4), st.sampled_from([64, 128, 256, 512])), max_size=6),
)
def test_every_surface_ends_within_the_budget_and_resumes_anywhere(
    rows: list[tuple[float, float, float, float]],
    shrink: float,
    kind: str,
    batch_is_free: bool,
    itl: float | None,
    expected: int | None,
    unstartable: frozenset[tuple[int, int]],
) -> None:
    def curve(probe: Probe) -> OperatingPoint:
        tokens, watts, again, latency = rows[probe.replicas - 1]
        scale = (probe.max_num_seqs / 256) ** shrink
        found = point(
            probe.replicas,
            tokens * scale,
            watts,
            confidence=tokens * scale * 0.03,
            layout=probe.layout_replicas,
            max_num_seqs=probe.max_num_seqs,
        )
        return replace(found, itl_p95_seconds=latency * scale, preemptions_per_request=again)

    space = replace(
        OPEN,
        batch_is_free=batch_is_free,
        objective=Objective(kind=kind),  # type: ignore[arg-type]
        limits=Limits(itl_p95_seconds=itl),
        expected=None if expected is None else Probe(expected, expected, 256),
        unstartable=unstartable,
    )
    measured, end = steps(space, curve)
    assert len(measured) <= MAX_PROBES
    assert all(space.holds(m.probe) for m in measured)
    points: tuple[OperatingPoint, ...] = ()
    for step in measured:
        assert next_step(space, points) == step
        points = learned(points, curve(step.probe))
    again = next_step(space, points[::-1])
    assert isinstance(again, Settle)
    assert running_layout(again.choice) == running_layout(end.choice)
