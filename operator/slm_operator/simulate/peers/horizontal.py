"""The HorizontalPodAutoscaler controller behind any metric: tolerance, stabilisation, rates.

Source: kubernetes/kubernetes, ``pkg/controller/podautoscaler/horizontal.go`` and
``replica_calculator.go`` as they are since v1.33; defaults of ``behavior`` from
``pkg/apis/autoscaling/v2/defaults.go`` (commit 1adaa75345752d96375fae03334fa9ed3bf535a1), of the
flags from ``pkg/controller/podautoscaler/config/v1alpha1/defaults.go`` (commit
85643c0f93064ad9f9bcd9303972d8308734d269).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from slm_operator.simulate.peers.pods import bounded, least
from slm_operator.simulate.peers.recent import Recent
from slm_operator.simulate.seen import Seen

SYNC_PERIOD_SECONDS = 15.0
"""``--horizontal-pod-autoscaler-sync-period``."""

TOLERANCE = 0.1
"""``--horizontal-pod-autoscaler-tolerance``: how far usage over target may be from one."""

DOWNSCALE_STABILIZATION_SECONDS = 300.0
"""``--horizontal-pod-autoscaler-downscale-stabilization``."""

MILLI = 1000
"""The controller calculates in thousandths of a metric's unit, as integers."""


@dataclass(frozen=True)
class RatePolicy:
    """At most ``value`` Pods, or percent of the Pods, may be added or removed in a period."""

    kind: Literal["Pods", "Percent"]
    value: int
    period_seconds: float


@dataclass(frozen=True)
class ScalingRules:
    """One direction of ``behavior``. Of several policies the one that allows most counts, which is
    ``selectPolicy: Max``, the default."""

    stabilization_seconds: float
    policies: tuple[RatePolicy, ...]


@dataclass(frozen=True)
class Behavior:
    """``spec.behavior``."""

    up: ScalingRules
    down: ScalingRules


DEFAULT_BEHAVIOR = Behavior(
    up=ScalingRules(0.0, (RatePolicy("Pods", 4, 15.0), RatePolicy("Percent", 100, 15.0))),
    down=ScalingRules(DOWNSCALE_STABILIZATION_SECONDS, (RatePolicy("Percent", 100, 15.0),)),
)
"""What autoscaling/v2 fills in."""


def within_tolerance(ratio: float, tolerance: float) -> bool:
    return 1.0 - tolerance <= ratio <= 1.0 + tolerance


def proposed_by_pods(
    values: list[float], missing: int, current: int, target: float, tolerance: float
) -> int | None:
    """Replicas for a metric that each Pod has, type ``Pods`` with an ``averageValue``.

    A Pod without the metric is set aside at first, then taken to be at the target if that would
    scale down and at zero if that would scale up; nothing happens if this turns the direction or
    ends within the tolerance. None without any value: the controller leaves the count alone.
    """
    if not values:
        return None
    target_milli = round(target * MILLI)
    ratio = _ratio(values, target_milli)
    if missing and ratio != 1.0:
        assumed = target if ratio < 1.0 else 0.0
        first, values = ratio, [*values, *[assumed] * missing]
        ratio = _ratio(values, target_milli)
        if (first - 1.0) * (ratio - 1.0) < 0:
            return current
    if within_tolerance(ratio, tolerance):
        return current
    count = math.ceil(ratio * len(values))
    turned = (ratio < 1.0 and count > current) or (ratio > 1.0 and count < current)
    return current if missing and turned else count


def proposed_by_total(total: float, target: float, pods: int, tolerance: float) -> int:
    """Replicas for one metric of the whole service, type ``External`` with an ``averageValue``.

    All existing ``pods`` divide it, ready or not.
    """
    if pods and within_tolerance(total / (target * pods), tolerance):
        return pods
    return math.ceil(total / target)


def _inside(count: int, seen: Seen) -> int:
    return bounded(max(count, least(seen)), seen)


def _ratio(values: list[float], target_milli: int) -> float:
    total_milli = sum(round(value * MILLI) for value in values)
    return total_milli // len(values) / target_milli


class Horizontal:
    """One HPA object in the controller: its recommendations and its past changes."""

    def __init__(self, behavior: Behavior) -> None:
        self._behavior = behavior
        up, down = behavior.up, behavior.down
        self._recommended = Recent(max(up.stabilization_seconds, down.stabilization_seconds))
        periods = [policy.period_seconds for policy in (*up.policies, *down.policies)]
        self._changes = Recent(max(periods))
        self._began = False

    def settled(self, seen: Seen, proposed: int | None) -> int:
        """Replicas to have now; ``proposed`` is None where the metric could not be read."""
        now, current = seen.now_seconds, seen.wanted
        if not self._began:
            # The controller's first recommendation is the count that it finds.
            self._began = True
            self._recommended.add(now, current)
        count = _inside(current, seen)
        if count == current and proposed is not None:
            stable = self._stabilized(now, current, proposed)
            count = _inside(self._limited(now, current, stable), seen)
        if count != current:
            self._changes.add(now, count - current)
        return count

    def _stabilized(self, now: float, current: int, proposed: int) -> int:
        """The lowest of the recent recommendations going up, the highest going down."""
        up, down = (
            self._recommended.within(now, rules.stabilization_seconds)
            for rules in (self._behavior.up, self._behavior.down)
        )
        self._recommended.add(now, proposed)
        lowest, highest = min([proposed, *up]), max([proposed, *down])
        return int(min(max(current, lowest), highest))

    def _limited(self, now: float, current: int, stable: int) -> int:
        if stable > current:
            limits = [self._limit(now, current, policy, 1) for policy in self._behavior.up.policies]
            return min(stable, max(current, *limits))
        limits = [self._limit(now, current, policy, -1) for policy in self._behavior.down.policies]
        return max(stable, min(current, *limits))

    def _limit(self, now: float, current: int, policy: RatePolicy, sign: int) -> int:
        """As far as one policy lets the count go from where it was when its period began."""
        start = current - int(sum(self._changes.within(now, policy.period_seconds)))
        if policy.kind == "Pods":
            return start + sign * policy.value
        changed = start * (100 + sign * policy.value) / 100
        return math.ceil(changed) if sign > 0 else math.floor(changed)
