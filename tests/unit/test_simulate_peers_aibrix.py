"""AIBrix's KPA: windows, panic, rates, and going down, in its current release and up to v0.4.1."""

from __future__ import annotations

import pytest

from peer_builders import STARTING, Driven, pack, seen
from slm_operator.simulate.peers.aibrix import Aibrix, AibrixSettings
from slm_operator.simulate.peers.aibrix_04 import Aibrix04, Aibrix04Settings
from slm_operator.simulate.seen import Policy


@pytest.mark.parametrize("policy", [Aibrix(), Aibrix04()])
def test_it_is_asked_every_10_seconds(policy: Policy) -> None:
    assert policy.period_seconds == 10.0


# v0.7.0


def test_usage_over_the_target_scales_up_from_one() -> None:
    assert Driven(Aibrix(), 1).step(pack(kv=0.9)) == 2


@pytest.mark.parametrize("kv", [0.46, 0.5, 0.54])
def test_within_a_tenth_of_the_target_the_count_stays(kv: float) -> None:
    assert Driven(Aibrix(), 3).step(pack(kv=kv)) == 3


def test_the_mean_over_pods_never_asks_for_more_than_two_of_the_shipped_target() -> None:
    assert Driven(Aibrix(), 1).run(3600, pack(kv=1.0, waiting=500))[-1] == 2


def test_stable_usage_divided_by_the_target_is_the_count() -> None:
    # algorithm/kpa_test.go, "stable_mode_basic_scaling": 20 over 10.
    settings = AibrixSettings(target_kv_usage=0.25)
    assert Driven(Aibrix(settings), 2).step(pack(kv=0.5)) == 2


def test_at_most_twice_as_many_at_once() -> None:
    settings = AibrixSettings(target_kv_usage=0.1)
    assert Driven(Aibrix(settings), 2).run(30, pack(kv=1.0)) == [4, 8, 10]


def test_at_least_half_as_many_at_once() -> None:
    # algorithm/kpa_test.go, "max_scale_down_rate_limit": four go to two.
    settings = AibrixSettings(target_kv_usage=0.1)
    assert Driven(Aibrix(settings), 4).step(pack(kv=0.05)) == 2


def test_a_rise_is_averaged_over_three_minutes() -> None:
    driven = Driven(Aibrix(AibrixSettings(target_kv_usage=0.1)), 5)
    driven.run(180, pack(kv=0.5))
    assert driven.step(pack(kv=0.8)) == 6  # the mean of 19 values is 0.52


def test_a_rise_to_more_than_twice_the_mean_is_a_panic_by_the_last_minute() -> None:
    driven = Driven(Aibrix(AibrixSettings(target_kv_usage=0.1)), 1)
    driven.run(180, pack(kv=0.1))
    counts = driven.run(60, pack(kv=1.0))
    assert counts == [2, 2, 4, 7, 8, 9]  # from the third on: 0.486 over 0.242


def test_going_down_takes_the_lowest_of_five_minutes_and_waits_for_nothing() -> None:
    only_now = AibrixSettings(target_kv_usage=0.1, stable_seconds=9.0, panic_seconds=9.0)
    driven = Driven(Aibrix(only_now), 1)
    assert [driven.step(pack(kv=kv)) for kv in (0.2, 0.4, 0.3)] == [2, 4, 2]


def test_v07_leaves_starting_pods_out() -> None:
    assert Aibrix().wanted(seen(pack(kv=0.9), STARTING, wanted=2)) == 2
    assert Aibrix().wanted(seen(STARTING, wanted=1)) == 1


def test_the_engines_of_a_pod_have_one_mean_usage() -> None:
    assert Driven(Aibrix(), 1).step(pack(kv=0.54, engines=4)) == 1


# v0.4.1


def test_v04_adds_usage_over_pods_so_the_count_follows_the_load() -> None:
    assert Driven(Aibrix04(), 1).run(40, pack(kv=1.0)) == [2, 4, 8, 16]


def test_v04_panics_at_twice_what_is_ready_and_then_only_adds() -> None:
    driven = Driven(Aibrix04(), 2)
    assert driven.step(pack(kv=1.0)) == 4
    assert driven.run(60, pack(kv=0.1)) == [4] * 6


def test_v04_ends_a_panic_a_stable_window_after_the_last_cause_then_delays_three_minutes() -> None:
    counts = Driven(Aibrix04(), 4).run(430, pack(kv=0.1))
    # Four Pods at the start are a panic, which ends after 60 s; the delay remembers the last four
    # of it for 180 s, and then the last two that it allowed as the half of four.
    assert counts == [4] * 24 + [2] * 18 + [1]


def test_v04_limits_rates_by_the_ready_pods() -> None:
    assert Aibrix04().wanted(seen(pack(kv=1.0), STARTING, STARTING, wanted=1)) == 2
    assert Aibrix04().wanted(seen(STARTING, wanted=1)) == 1


def test_v04_without_the_samples_delay_goes_down_at_once() -> None:
    settings = Aibrix04Settings(scale_down_delay_seconds=0.0)
    driven = Driven(Aibrix04(settings), 4)
    assert driven.run(80, pack(kv=0.1))[-1] == 2
