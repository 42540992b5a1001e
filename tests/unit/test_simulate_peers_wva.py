"""llm-d's workload variant autoscaler: saturation, safety of removal, transitions."""

from __future__ import annotations

import pytest

from peer_builders import STARTING, Driven, pack, seen
from slm_operator.simulate.peers.horizontal import (
    DEFAULT_BEHAVIOR,
    Behavior,
    RatePolicy,
    ScalingRules,
)
from slm_operator.simulate.peers.wva import Wva, WvaSettings
from slm_operator.simulate.seen import PackSeen

AT_ONCE = ScalingRules(0.0, (RatePolicy("Pods", 10, 15.0),))
DIRECT = WvaSettings(behavior=Behavior(AT_ONCE, AT_ONCE))
"""Shows the engine's decisions, without the HPA's four minutes."""


def decided(*packs: PackSeen) -> int:
    return Wva(DIRECT).wanted(seen(*packs))


# Cases of internal/saturation/analyzer_test.go (v0.5.1).


def test_little_spare_kv_cache_scales_up() -> None:
    assert decided(pack(kv=0.75, waiting=2), pack(kv=0.76, waiting=2)) == 3


def test_little_spare_queue_scales_up() -> None:
    assert decided(pack(kv=0.50, waiting=3), pack(kv=0.50, waiting=3)) == 3


def test_enough_of_both_scales_nothing_up() -> None:
    assert decided(pack(kv=0.50, waiting=1), pack(kv=0.50, waiting=1)) == 2


def test_adequate_headroom_after_removal_scales_down() -> None:
    assert decided(pack(kv=0.2, waiting=1), pack(kv=0.3, waiting=1), pack(kv=0.25, waiting=1)) == 2


def test_one_unsaturated_pack_is_never_removed() -> None:
    assert decided(pack(kv=0.10)) == 1
    assert decided(pack(kv=0.10), pack(kv=0.95)) == 2


def test_all_saturated_scales_up() -> None:
    assert decided(pack(kv=0.9, waiting=9), pack(kv=0.8, waiting=0)) == 3


def test_saturated_packs_are_left_out_of_the_mean() -> None:
    assert decided(pack(kv=0.95, waiting=9), pack(kv=0.5), pack(kv=0.5)) == 3


def test_removal_spreads_the_queue_too() -> None:
    assert decided(pack(waiting=1), pack(waiting=1)) == 1
    assert decided(pack(waiting=1), pack(waiting=2)) == 2  # 3 waiting on one pack are one too many


@pytest.mark.parametrize(("waiting", "count"), [(2, 2), (3, 3)])
def test_thresholds_hold_for_each_engine_of_a_pod(waiting: int, count: int) -> None:
    assert decided(*[pack(kv=0.45, waiting=waiting, engines=4)] * 2) == count


# Transitions.


def test_a_starting_pack_blocks_decisions() -> None:
    assert decided(pack(kv=0.9, waiting=9), STARTING) == 2


def test_without_metrics_the_last_wish_stays() -> None:
    wva = Wva(DIRECT)
    assert wva.wanted(seen(pack(waiting=9))) == 2
    assert wva.wanted(seen(STARTING, STARTING, now=30.0)) == 2


def test_packs_come_one_at_a_time_and_every_30_seconds_at_best() -> None:
    counts = Driven(Wva(DIRECT), 1).run(120, pack(waiting=9))
    assert counts == [2, 2, 3, 3, 4, 4, 5, 5]


def test_a_peak_counts_for_a_minute() -> None:
    driven = Driven(Wva(DIRECT), 2)
    assert driven.step(pack(kv=0.69)) == 2
    assert driven.run(60, pack(kv=0.1)) == [2, 2, 2, 1]


def test_as_shipped_each_step_up_waits_four_minutes() -> None:
    counts = Driven(Wva(), 1).run(600, pack(waiting=9))
    # At 255 s the HPA still reads two; the engine's next pass at 270 s says three.
    assert counts.index(2) * 15 == 240
    assert counts.index(3) * 15 == 255 + 240


def test_as_shipped_each_step_down_waits_four_minutes() -> None:
    counts = Driven(Wva(), 3).run(600, pack())
    assert counts.index(2) * 15 == 240


def test_a_wish_stays_inside_the_bounds_so_that_it_is_not_in_transition_for_ever() -> None:
    driven = Driven(Wva(DIRECT), 2, low=2, high=3)
    assert driven.run(120, pack(waiting=9))[-1] == 3
    assert driven.run(240, pack())[-1] == 2
    assert driven.run(120, pack(waiting=9))[-1] == 3


def test_the_hpa_before_it_is_a_setting() -> None:
    settings = WvaSettings(behavior=DEFAULT_BEHAVIOR)
    assert Driven(Wva(settings), 1).step(pack(waiting=9)) == 2
