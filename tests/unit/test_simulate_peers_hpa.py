"""The HorizontalPodAutoscaler: the ratio, what is missing, stabilisation and rates."""

from __future__ import annotations

import pytest

from peer_builders import STARTING, Driven, pack, seen
from slm_operator.simulate.peers.horizontal import (
    DEFAULT_BEHAVIOR,
    Behavior,
    Horizontal,
    RatePolicy,
    ScalingRules,
    proposed_by_pods,
    proposed_by_total,
)
from slm_operator.simulate.peers.hpa import Hpa, HpaSettings
from slm_operator.simulate.seen import Seen


def proposed(
    values: list[float], target: float = 0.1, missing: int = 0, current: int | None = None
) -> int | None:
    count = len(values) + missing if current is None else current
    return proposed_by_pods(values, missing, count, target, 0.1)


# The documentation's examples: kubernetes.io, "Horizontal Pod Autoscaling", algorithm details.


def test_200m_against_100m_doubles() -> None:
    assert proposed([0.2, 0.2, 0.2]) == 6


def test_50m_against_100m_halves() -> None:
    assert proposed([0.05, 0.05, 0.05, 0.05]) == 2


@pytest.mark.parametrize(("value", "count"), [(0.109, 10), (0.091, 10), (0.112, 12), (0.089, 9)])
def test_within_a_tenth_of_the_target_nothing_changes(value: float, count: int) -> None:
    assert proposed([value] * 10) == count


def test_a_fraction_of_a_pod_is_a_pod() -> None:
    assert proposed([0.15, 0.12, 0.15]) == 5


# Pods without the metric.


def test_going_up_a_pod_without_metrics_counts_as_idle() -> None:
    assert proposed([0.3, 0.3], missing=1) == 6  # (0.3 + 0.3 + 0) / 3 is twice the target
    assert proposed([0.3, 0.3, 0.3]) == 9


def test_going_down_a_pod_without_metrics_counts_as_at_the_target() -> None:
    assert proposed([0.02, 0.02], missing=2) == 3  # 0.06 in the mean, of four
    assert proposed([0.02, 0.02, 0.02, 0.02]) == 1


def test_pods_without_metrics_may_not_turn_the_direction() -> None:
    assert proposed([0.15, 0.15], missing=3) == 5


def test_pods_without_metrics_may_bring_it_within_the_tolerance() -> None:
    assert proposed([0.2], missing=1) == 2


def test_exactly_on_target_pods_without_metrics_change_nothing() -> None:
    assert proposed([0.1], missing=1) == 2


def test_no_metric_at_all_is_no_proposal() -> None:
    assert proposed([], missing=2) is None
    assert Hpa().wanted(seen(STARTING, STARTING)) == 2


# One metric of the whole service.


def test_a_total_is_shared_by_all_pods() -> None:
    assert proposed_by_total(30, 10, pods=2, tolerance=0.1) == 3
    assert proposed_by_total(21, 10, pods=2, tolerance=0.1) == 2
    assert proposed_by_total(0, 10, pods=2, tolerance=0.1) == 0


def test_a_tenth_more_replicas_is_within_the_tolerance_of_a_count_as_a_metric() -> None:
    assert proposed_by_total(12, 1, pods=11, tolerance=0.1) == 11


# The controller's memory.


class Counted:
    """A controller whose proposals are given, on a fake clock."""

    def __init__(self, behavior: Behavior = DEFAULT_BEHAVIOR, packs: int = 1) -> None:
        self.controller = Horizontal(behavior)
        self.wanted = packs
        self.now = 0.0

    def at(self, now: float, proposal: int | None, high: int = 1000) -> int:
        state: Seen = seen(now=now, wanted=self.wanted, high=high)
        self.wanted = self.controller.settled(state, proposal)
        return self.wanted


def test_scaling_down_takes_the_highest_recommendation_of_five_minutes() -> None:
    hpa = Counted(packs=10)
    assert hpa.at(0, 8) == 10  # the count found at the start is the first recommendation
    assert hpa.at(15, 5) == 10
    assert hpa.at(299, 2) == 10
    assert hpa.at(300, 2) == 5  # both from 0 s are now as old as the window
    assert hpa.at(599, 2) == 2


def test_a_short_dip_scales_nothing_down() -> None:
    hpa = Counted(packs=6)
    counts = [hpa.at(15 * step, 1 if step % 10 else 6) for step in range(100)]
    assert counts == [6] * 100


@pytest.mark.parametrize(
    ("packs", "most"),
    [(1, 5), (3, 7), (4, 8), (5, 10), (20, 40)],
    ids=["four pods", "four pods", "either", "doubled", "doubled"],
)
def test_in_15_seconds_at_most_four_pods_or_twice_as_many(packs: int, most: int) -> None:
    hpa = Counted(packs=packs)
    assert hpa.at(0, 500) == most
    assert hpa.at(10, 500) == most
    assert hpa.at(15, 500) == max(2 * most, most + 4)


def test_scaling_up_is_not_delayed() -> None:
    assert Counted(packs=2).at(0, 3) == 3


def test_an_upward_window_takes_the_lowest_recommendation() -> None:
    rules = ScalingRules(240.0, (RatePolicy("Pods", 10, 150.0),))
    hpa = Counted(Behavior(rules, rules), packs=1)
    assert hpa.at(0, 3) == 1
    assert hpa.at(239, 3) == 1
    assert hpa.at(240, 3) == 3


def test_a_rate_in_percent_downwards_rounds_down() -> None:
    down = ScalingRules(0.0, (RatePolicy("Percent", 50, 60.0),))
    hpa = Counted(Behavior(DEFAULT_BEHAVIOR.up, down), packs=7)
    assert hpa.at(0, 0) == 3
    assert hpa.at(30, 0) == 3
    assert hpa.at(60, 0) == 1


def test_the_limit_counts_from_the_pods_at_the_start_of_the_period() -> None:
    down = ScalingRules(0.0, (RatePolicy("Percent", 100, 15.0),))
    hpa = Counted(Behavior(DEFAULT_BEHAVIOR.up, down), packs=10)
    assert hpa.at(0, 2) == 2
    assert hpa.at(5, 500) == 20  # twice the ten of five seconds ago


def test_an_unreadable_metric_leaves_the_count_but_not_the_bounds() -> None:
    hpa = Counted(packs=9)
    assert hpa.at(0, None) == 9
    assert hpa.at(15, None, high=4) == 4


# hpa on the batch size.


def test_a_batch_over_the_target_adds_packs() -> None:
    assert Driven(Hpa(), 2).step(pack(running=96, slots=100)) == 3  # 96 against 80


def test_a_full_batch_scales_up() -> None:
    assert Driven(Hpa(), 1).step(pack(running=256, slots=256)) == 2


def test_two_engines_in_a_pod_have_twice_the_target() -> None:
    assert Driven(Hpa(), 2).step(pack(running=80, engines=2)) == 2
    assert Driven(Hpa(), 2).step(pack(running=100, engines=2)) == 3


def test_while_a_pack_starts_it_counts_as_idle() -> None:
    assert Driven(Hpa(), 2, starting=1).step(pack(running=100)) == 2
    assert Driven(Hpa(), 5, starting=1).step(pack(running=100)) == 5


def test_an_idle_service_goes_down_to_one_after_five_minutes() -> None:
    counts = Driven(Hpa(), 4, low=0).run(330, pack(running=0))
    assert counts == [4] * 20 + [1] * 2


def test_the_target_is_a_setting() -> None:
    settings = HpaSettings(batch_share=0.4)
    assert Driven(Hpa(settings), 2).step(pack(running=80)) == 4
