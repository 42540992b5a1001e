"""KEDA on the waiting requests, with the production stack's ScaledObject."""

from __future__ import annotations

from peer_builders import STARTING, Driven, pack, seen
from slm_operator.simulate.peers.keda import Keda


def test_it_is_asked_every_15_seconds() -> None:
    assert Keda().period_seconds == 15.0


def test_more_than_five_waiting_scale_up() -> None:
    assert Driven(Keda(), 1).step(pack(waiting=5)) == 1
    assert Driven(Keda(), 1).step(pack(waiting=6)) == 2


def test_the_threshold_is_per_pack_of_the_whole_queue() -> None:
    assert Driven(Keda(), 2).step(pack(waiting=8)) == 4  # 16 over 5


def test_two_engines_in_a_pod_have_twice_the_threshold() -> None:
    assert Driven(Keda(), 1).step(pack(waiting=5, engines=2)) == 1
    assert Driven(Keda(), 1).step(pack(waiting=10, engines=2)) == 2


def test_a_starting_pack_shares_the_queue_already() -> None:
    assert Keda().wanted(seen(pack(waiting=10), STARTING)) == 2


def test_an_empty_queue_scales_down_to_the_minimum_after_five_minutes_however_busy() -> None:
    counts = Driven(Keda(), 4, low=2).run(330, pack(running=100))
    assert counts == [4] * 20 + [2] * 2


def test_a_burst_adds_four_packs_in_15_seconds() -> None:
    driven = Driven(Keda(), 1)
    assert driven.step(pack(waiting=300)) == 5
    assert driven.step(pack(waiting=300)) == 10


def test_with_a_minimum_of_one_the_cooldown_is_never_used() -> None:
    assert Driven(Keda(), 1).run(3600, pack()) == [1] * 240


def test_without_requests_the_last_pack_goes_after_the_cooldown() -> None:
    counts = Driven(Keda(), 1, low=0).run(420, pack())
    assert counts == [1] * 25 + [0] * 3  # more than 360 s


def test_a_request_wakes_the_service_and_keeps_it_for_a_minute() -> None:
    driven = Driven(Keda(), 0, low=0)
    assert driven.step(pack(), arrived=0) == 0
    assert driven.step(pack(), arrived=1) == 1
    assert driven.run(420, pack(), arrived=1) == [1] * 27 + [
        0
    ]  # 45 s kept alive, then the cooldown
