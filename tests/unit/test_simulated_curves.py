"""The simulated GPU's pace and power follow the measurements that come with the package."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_worker.gpu.curves import IDLE_WATTS, MAX_WATTS, Curves, Point, opt_1_3b_on_h100

CURVES = opt_1_3b_on_h100()

batches = st.integers(1, 4096)
replica_counts = st.integers(1, 32)


@pytest.mark.parametrize(
    ("replicas", "batch", "tokens_per_second", "watts"),
    [
        (1, 1, 276.6, 256.4),
        (1, 16, 2931.5, 286.5),
        (1, 96, 6616.7, 323.4),
        (1, 256, 7886.7, 335.1),
        (1, 768, 7956.4, 327.8),
        (2, 96, 8933.3, 408.3),
        (2, 256, 10641.9, 443.1),
        (4, 96, 9555.6, 446.8),
        (4, 256, 10678.7, 471.0),
    ],
)
def test_measured_points_are_reproduced_exactly(
    replicas: int, batch: int, tokens_per_second: float, watts: float
) -> None:
    assert CURVES.tokens_per_second(replicas, batch) == tokens_per_second
    assert CURVES.watts(replicas, batch) == watts


def test_every_recorded_point_is_there() -> None:
    assert {n: sorted(row) for n, row in CURVES.points.items()} == {
        1: [1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 640, 768],
        2: [96, 256],
        4: [96, 256],
    }


def test_a_saturated_replica_writes_its_share_of_the_measured_tokens() -> None:
    step_seconds = CURVES.step_seconds([256, 256], 1)

    assert 2 * 256 / step_seconds == pytest.approx(10641.9)


def test_sixteen_sequences_on_two_replicas_are_slower_than_on_one() -> None:
    split = sum(8 / CURVES.step_seconds([8, 8], own) for own in (0, 1))

    assert split == pytest.approx(2350, rel=0.01)
    assert split < CURVES.tokens_per_second(1, 16)


def test_three_replicas_lie_between_two_and_four() -> None:
    two, three, four = (CURVES.tokens_per_second(n, 96) for n in (2, 3, 4))

    assert two < three < four
    # log(3/2) / log(4/2) of the way
    assert three == pytest.approx(two + 0.585 * (four - two), rel=1e-3)


def test_beyond_the_measured_batch_several_replicas_keep_their_gain_over_one() -> None:
    gain = CURVES.tokens_per_second(2, 256) / CURVES.tokens_per_second(1, 256)

    assert CURVES.tokens_per_second(2, 512) == pytest.approx(
        gain * CURVES.tokens_per_second(1, 512)
    )


def test_more_replicas_than_measured_keep_throughput_and_draw_more() -> None:
    assert CURVES.tokens_per_second(8, 256) == CURVES.tokens_per_second(4, 256)
    assert CURVES.watts(4, 256) < CURVES.watts(8, 256) <= MAX_WATTS


def test_nobody_running_draws_idle_power() -> None:
    assert CURVES.active_watts([]) == IDLE_WATTS


def test_power_of_unequal_batches_is_that_of_their_mean() -> None:
    assert CURVES.active_watts([64, 128]) == CURVES.watts(2, 96)


def test_each_replica_runs_as_if_all_had_its_batch() -> None:
    assert CURVES.step_seconds([8, 256], 0) == CURVES.step_seconds([8, 8], 0)


@pytest.mark.parametrize(("replicas", "batch"), [(0, 8), (1, 0), (-1, 8)])
def test_a_pace_without_replicas_or_sequences_is_refused(replicas: int, batch: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        CURVES.tokens_per_second(replicas, batch)


def test_power_never_exceeds_the_board_limit() -> None:
    hot = Curves({1: {1: Point(1, 300)}, 2: {1: Point(2, 600)}, 4: {1: Point(3, 690)}})

    assert hot.watts(32, 1) == MAX_WATTS


@given(replica_counts, batches)
def test_pace_and_power_are_positive_and_bounded(replicas: int, batch: int) -> None:
    assert 0 < CURVES.tokens_per_second(replicas, batch) < 12_000
    assert IDLE_WATTS <= CURVES.watts(replicas, batch) <= MAX_WATTS


@given(replica_counts, st.integers(1, 640), st.integers(1, 640))
def test_a_larger_batch_is_never_slower(replicas: int, one: int, other: int) -> None:
    small, large = sorted((one, other))

    assert CURVES.tokens_per_second(replicas, small) <= CURVES.tokens_per_second(replicas, large)


@given(st.integers(1, 8), st.floats(1, 768))
def test_the_curve_has_no_jumps(replicas: int, batch: float) -> None:
    here, there = (CURVES.tokens_per_second(replicas, b) for b in (batch, batch * 1.001))

    assert there == pytest.approx(here, rel=0.002)
