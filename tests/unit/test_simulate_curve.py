"""The curve through measured points: exact at each, plausible between and beyond."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import point
from simulate_builders import IDLE_WATTS, committed, curve, opt_1_3b
from slm_operator.pareto.points import OperatingPoint
from slm_operator.simulate.curve import Curve, CurveError

PUBLISHED = opt_1_3b().curve


@pytest.mark.parametrize("measured", PUBLISHED.points, ids=lambda p: str(p.probe))
def test_every_measured_point_is_on_the_curve(measured: OperatingPoint) -> None:
    replicas, batch = measured.probe.replicas, measured.probe.max_num_seqs
    tokens, watts = measured.output_tokens_per_second, measured.power_watts
    assert PUBLISHED.tokens_per_second(replicas, batch) == pytest.approx(tokens, rel=1e-12)
    assert PUBLISHED.watts(replicas, batch) == pytest.approx(watts, rel=1e-12)


def test_what_was_measured_is_known() -> None:
    assert PUBLISHED.replica_counts == [1, 2, 4]
    assert (1, 768) in PUBLISHED.layouts
    assert (2, 96) in PUBLISHED.layouts
    assert len(PUBLISHED.layouts) == 19


def test_between_batches_throughput_is_a_power_of_the_batch() -> None:
    of = curve({(1, 4): (100.0, 200.0), (1, 16): (400.0, 300.0)})
    assert of.tokens_per_second(1, 8) == pytest.approx(200.0)
    assert of.watts(1, 8) == pytest.approx(250.0)


def test_below_the_smallest_batch_a_step_takes_as_long() -> None:
    of = curve({(1, 4): (100.0, 200.0)})
    assert of.tokens_per_second(1, 1) == pytest.approx(25.0)
    assert of.watts(1, 1) == 200.0


def test_above_the_largest_batch_nothing_is_gained() -> None:
    of = curve({(1, 4): (100.0, 200.0), (1, 8): (150.0, 210.0)})
    assert of.tokens_per_second(1, 99) == pytest.approx(150.0)
    assert of.watts(1, 99) == 210.0


def test_one_row_is_a_curve() -> None:
    of = curve({(1, 256): (8000.0, 340.0)})
    assert of.tokens_per_second(1, 256) == pytest.approx(8000.0)
    assert of.tokens_per_second(1, 128) == pytest.approx(4000.0)
    assert of.tokens_per_second(4, 256) == pytest.approx(8000.0)


def test_a_count_between_measured_ones_is_between_them_by_its_logarithm() -> None:
    of = curve({(1, 8): (100.0, 200.0), (2, 8): (160.0, 240.0), (8, 8): (200.0, 300.0)})
    assert of.tokens_per_second(4, 8) == pytest.approx(180.0)
    assert of.watts(4, 8) == pytest.approx(270.0)
    assert of.tokens_per_second(9, 8) == pytest.approx(200.0)


def test_what_replicas_gain_is_held_where_their_batches_end() -> None:
    of = curve(
        {(1, 4): (100.0, 200.0), (1, 8): (150.0, 300.0), (1, 64): (300.0, 350.0)}
        | {(2, 8): (225.0, 400.0)}
    )
    assert of.tokens_per_second(2, 4) == pytest.approx(1.5 * 100.0)
    assert of.tokens_per_second(2, 64) == pytest.approx(1.5 * 300.0)
    assert of.watts(2, 64) == pytest.approx(IDLE_WATTS + 1.5 * (350.0 - IDLE_WATTS))


def test_replicas_at_smaller_batches_than_one_replica_ever_ran() -> None:
    of = curve({(1, 256): (8000.0, 340.0), (2, 64): (5000.0, 300.0)})
    assert of.tokens_per_second(2, 64) == pytest.approx(5000.0)
    assert of.watts(2, 64) == pytest.approx(300.0)


@given(batches=st.tuples(st.floats(1, 640), st.floats(1, 640)))
def test_where_the_data_rises_with_the_batch_so_does_the_curve(
    batches: tuple[float, float],
) -> None:
    low, high = sorted(batches)
    fewer, more = (PUBLISHED.tokens_per_second(1, batch) for batch in (low, high))
    assert fewer <= more * (1 + 1e-9)


points = st.dictionaries(
    st.tuples(st.integers(1, 8), st.integers(1, 999)),
    st.tuples(st.floats(1, 20_000), st.floats(IDLE_WATTS + 1, 700)),
    max_size=12,
).map(lambda found: {(1, 64): (1000.0, 300.0)} | found)


@given(found=points)
def test_any_points_are_on_their_curve(
    found: dict[tuple[int, int], tuple[float, float]],
) -> None:
    of = curve(found)
    for (replicas, batch), (tokens, watts) in found.items():
        assert of.tokens_per_second(replicas, batch) == pytest.approx(tokens, rel=1e-6)
        assert of.watts(replicas, batch) == pytest.approx(watts, rel=1e-6)


@given(found=points, replicas=st.integers(1, 9), batch=st.floats(1, 2000))
def test_anywhere_the_curve_is_positive(
    found: dict[tuple[int, int], tuple[float, float]], replicas: int, batch: float
) -> None:
    of = curve(found)
    assert of.tokens_per_second(replicas, batch) > 0
    assert of.watts(replicas, batch) > IDLE_WATTS


@given(found=points, batch=st.sampled_from([1, 8, 64, 500]))
def test_a_count_between_two_gives_what_is_between_theirs(
    found: dict[tuple[int, int], tuple[float, float]], batch: int
) -> None:
    of = curve(found)
    for low, high in pairwise(of.replica_counts):
        ends = sorted(of.tokens_per_second(n, batch) for n in (low, high))
        for between in range(low, high + 1):
            tokens = of.tokens_per_second(between, batch)
            assert ends[0] * (1 - 1e-9) <= tokens <= ends[1] * (1 + 1e-9)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ((), "no point of one replica: a curve needs at least one"),
        (
            (committed(2, 64, 100.0, 200.0),),
            "no point of one replica: a curve needs at least one",
        ),
        (
            (point(1, 100.0, None, max_num_seqs=64),),
            "1 replica x 64 has no power: give power_mean_w for every point",
        ),
        (
            (committed(1, 64, 100.0, 200.0), committed(2, 64, 100.0, 0.0)),
            "2 replicas x 64 draws 0 W, and the GPU 100 W when it is idle: correct power_mean_w, "
            "or name the GPU that was measured",
        ),
    ],
)
def test_points_that_make_no_curve(points: tuple[OperatingPoint, ...], said: str) -> None:
    with pytest.raises(CurveError) as caught:
        Curve(points, IDLE_WATTS)
    assert str(caught.value) == said
