"""wva: llm-d's workload variant autoscaler, its saturation rules and the HPA that carries them out.

Source: llm-d/llm-d-workload-variant-autoscaler v0.5.1 (commit
c760bb79e0780dda70471e13053aa0c1b5650115): ``internal/saturation/analyzer.go`` (the percentage-based
analyzer, the default), ``internal/engines/saturation/engine.go``,
``internal/collector/registration/saturation.go`` and
``charts/workload-variant-autoscaler/values.yaml``.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from slm_operator.simulate.peers.horizontal import (
    SYNC_PERIOD_SECONDS,
    TOLERANCE,
    Behavior,
    Horizontal,
    RatePolicy,
    ScalingRules,
    proposed_by_total,
)
from slm_operator.simulate.peers.pods import least, reporting
from slm_operator.simulate.peers.recent import Recent
from slm_operator.simulate.seen import PackSeen, Seen

_CHART_RULES = ScalingRules(240.0, (RatePolicy("Pods", 10, 150.0),))
"""``hpa.behavior`` of the chart, the same in both directions; its guide calls it the production
default and recommends 120 to 300 s."""

CHART_BEHAVIOR = Behavior(_CHART_RULES, _CHART_RULES)


@dataclass(frozen=True)
class WvaSettings:
    """``capacityScaling.default`` of the chart and constants of the code."""

    kv_threshold: float = 0.80
    """``kvCacheThreshold``: a replica with this share of its KV cache in use is saturated."""
    queue_threshold: float = 5.0
    """``queueLengthThreshold``: so is one with as many waiting requests."""
    kv_spare_trigger: float = 0.1
    """``kvSpareTrigger``: less mean spare than this scales up."""
    queue_spare_trigger: float = 3.0
    """``queueSpareTrigger``."""
    min_unsaturated: int = 2
    """``MinNonSaturatedReplicasForScaleDown`` (``internal/saturation/constants.go``)."""
    engine_period_seconds: float = 30.0
    """Interval of the saturation engine's polling executor."""
    peak_seconds: float = 60.0
    """Metrics are ``max by (pod) (max_over_time(...[1m]))``."""
    tolerance: float = TOLERANCE
    behavior: Behavior = CHART_BEHAVIOR
    period_seconds: float = SYNC_PERIOD_SECONDS
    """The HPA's sync, and the scrape interval of the chart's ServiceMonitor."""


@dataclass(frozen=True)
class _Load:
    kv_usage: float
    queue: float


class Wva:
    """One step of one pack at a time. While any pack starts, or the HPA has not yet done what was
    wanted, nothing new is decided: the protection against cascades."""

    def __init__(self, settings: WvaSettings | None = None) -> None:
        self._settings = settings or WvaSettings()
        self._controller = Horizontal(self._settings.behavior)
        self._peaks: dict[int, tuple[Recent, Recent]] = {}
        self._desired: int | None = None
        self._ran_at_seconds: float | None = None

    @property
    def period_seconds(self) -> float:
        return self._settings.period_seconds

    def wanted(self, seen: Seen) -> int:
        self._scrape(seen)
        last, period = self._ran_at_seconds, self._settings.engine_period_seconds
        if last is None or seen.now_seconds - last >= period:
            self._ran_at_seconds = seen.now_seconds
            self._desired = self._target(seen)
        proposed = None
        if self._desired is not None:
            # ``wva_desired_replicas`` with an average value of one.
            pods, tolerance = len(seen.packs), self._settings.tolerance
            proposed = proposed_by_total(self._desired, 1.0, pods, tolerance)
        return self._controller.settled(seen, proposed)

    def _scrape(self, seen: Seen) -> None:
        """The query takes a Pod's largest series, so a threshold holds for each engine of it."""
        here = {pack.name for pack in seen.packs}
        self._peaks = {name: peaks for name, peaks in self._peaks.items() if name in here}
        for pack in reporting(seen):
            keep = self._settings.peak_seconds
            kv, queue = self._peaks.setdefault(pack.name, (Recent(keep), Recent(keep)))
            kv.add(seen.now_seconds, max(replica.kv_usage for replica in pack.replicas))
            queue.add(seen.now_seconds, max(replica.waiting for replica in pack.replicas))

    def _target(self, seen: Seen) -> int | None:
        packs, current = reporting(seen), len(seen.packs)
        if not packs:
            return self._desired
        if self._desired is not None and self._desired != current:
            return self._desired
        if len(packs) != current:
            return current
        step = self._step([self._load(pack) for pack in packs])
        # v0.5.1 does not know the HPA's bounds. A wish outside them would stay "in transition" for
        # ever and stop all scaling; its GPU limiter, off by default, prevents that at the top.
        return min(max(current + step, least(seen)), seen.max_packs)

    def _load(self, pack: PackSeen) -> _Load:
        kv, queue = self._peaks[pack.name]
        return _Load(max(kv.kept()), max(queue.kept()))

    def _step(self, loads: list[_Load]) -> int:
        settings = self._settings
        unsaturated = [
            load
            for load in loads
            if load.kv_usage < settings.kv_threshold and load.queue < settings.queue_threshold
        ]
        if not unsaturated:
            return 1
        kv = fmean(load.kv_usage for load in unsaturated)
        queue = fmean(load.queue for load in unsaturated)
        if not self._spare(kv, queue):
            return 1
        count = len(unsaturated)
        if count < settings.min_unsaturated:
            return 0
        spread = count / (count - 1)
        return -1 if self._spare(kv * spread, queue * spread) else 0

    def _spare(self, kv_usage: float, queue: float) -> bool:
        settings = self._settings
        return (
            settings.kv_threshold - kv_usage >= settings.kv_spare_trigger
            and settings.queue_threshold - queue >= settings.queue_spare_trigger
        )
