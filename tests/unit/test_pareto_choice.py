"""Frontier and knee of each objective, on the published measurements and on noise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import h100, point
from slm_operator.pareto.choice import choose, judge
from slm_operator.pareto.objective import Limits, Objective
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.rulings import Rule

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


def test_a_device_that_reports_no_power_is_compared_without_dividing_by_it() -> None:
    found = judge([point(1, 1000, 0), point(2, 1010, 100)], Objective("MaxThroughput"))
    assert found.chosen is not None and found.chosen.probe.replicas == 1


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


CURVES: dict[str, tuple[list[OperatingPoint], tuple[int, int]]] = {
    # name: points, and the (replicas, max_num_seqs) that Balanced chooses
    "flat: more replicas bring nothing": ([point(n, 1000, 100) for n in range(1, 5)], (1, 256)),
    "falling: replicas are in each other's way": (
        [point(n, 1000 / n, 100) for n in range(1, 5)],
        (1, 256),
    ),
    "rising: each replica brings its share": (
        [point(n, 1000 * n, 100 * n) for n in range(1, 5)],
        (4, 256),
    ),
    "two knees, the second worth its replicas": (
        [point(n, t, t / 10) for n, t in enumerate((1000, 1300, 1310, 1600, 1605), start=1)],
        (4, 256),
    ),
    "two knees, the second not worth its replicas": (
        [point(n, t, t / 10) for n, t in enumerate((1000, 1300, 1305, 1350, 1351), start=1)],
        (2, 256),
    ),
    "noisy: no difference is certain": (
        [point(n, t, 100, confidence=100) for n, t in enumerate((1000, 1090, 980, 1120), start=1)],
        (1, 256),
    ),
    "one point": ([point(3, 1000, 100)], (3, 256)),
    "power unknown for some rows": ([point(1, 1000, 100), point(2, 1400)], (2, 256)),
    "equal points: the smaller batch": (
        [point(1, 1000, 100, max_num_seqs=b) for b in (512, 256, 96)],
        (1, 96),
    ),
    "one thrifty point that is slow": (
        [point(1, 400, 20), point(1, 1000, 100, max_num_seqs=512)],
        (1, 256),
    ),
}


@pytest.mark.parametrize("name", CURVES)
def test_each_kind_of_curve_has_its_knee(name: str) -> None:
    points, expected = CURVES[name]
    chosen = choose(points, BALANCED).chosen.probe
    assert (chosen.replicas, chosen.max_num_seqs) == expected


def test_all_infeasible_chooses_nothing_and_tells_what_comes_nearest() -> None:
    points = [point(1, 1000, 300), point(2, 1400, 420), point(4, 1410, 460)]
    limits = Limits(power_watts=250)
    assert judge(points, BALANCED, limits).chosen is None
    nearest = choose(points, BALANCED, limits)
    assert nearest.chosen.probe.replicas == 1
    assert nearest.broken is not None
    assert nearest.broken.text == "300 W exceeds the power budget of 250 W"
    assert nearest.sentence == (
        "1 replica x 256 comes nearest to the limits, which no measured point keeps; "
        "300 W exceeds the power budget of 250 W"
    )
    assert [v.chosen for v in nearest.verdicts] == [True, False, False]
    assert not any(v.on_frontier for v in nearest.verdicts)
    assert nearest.verdicts[0].ruling.rule is Rule.NEAREST_TO_LIMITS


def test_equal_excess_goes_to_fewer_replicas() -> None:
    points = [point(4, 1410, 400), point(2, 1400, 400)]
    assert choose(points, BALANCED, Limits(power_watts=200)).chosen.probe.replicas == 2


def test_a_full_kv_cache_is_named_with_the_reason() -> None:
    thrashing = replace(point(4, 10_679, 471), preemptions_per_request=0.302)
    found = choose([h100(Probe(2, 2, 256)), thrashing], BALANCED)
    assert found.chosen.probe.replicas == 2
    assert found.verdicts[1].why.endswith("its KV cache ran full: 0.30 preemptions a request")


def test_preemptions_can_be_limited() -> None:
    thrashing = replace(point(2, 1400, 140), preemptions_per_request=0.302)
    points = [replace(point(1, 1000, 100), preemptions_per_request=0.0), thrashing]
    assert choose(points, BALANCED).chosen.probe.replicas == 2
    bounded = choose(points, BALANCED, Limits(preemptions_per_request=0.1))
    assert bounded.chosen.probe.replicas == 1
    assert bounded.verdicts[1].why == "0.30 preemptions a request exceed the limit of 0.10"
    none = choose(points, BALANCED, Limits(preemptions_per_request=0))
    assert none.chosen.probe.replicas == 1
