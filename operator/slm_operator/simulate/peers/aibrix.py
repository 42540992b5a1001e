"""aibrix: AIBrix's KPA on KV-cache usage, as its current release decides.

Source: vllm-project/aibrix v0.7.0 (commit c5465890951ad43d22241ab7ed964b929c5d4aba), below
``pkg/controller/podautoscaler``: ``algorithm/kpa.go``, ``context/context.go``,
``metrics/client.go``, ``types/metrics.go`` and ``podautoscaler_controller.go``; metric and target
from ``samples/autoscaling/kpa.yaml``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean

from slm_operator.simulate.peers.pods import bounded, kv_usage, least, reporting
from slm_operator.simulate.peers.recent import Recent
from slm_operator.simulate.seen import Seen

RESYNC_SECONDS = 10.0
"""``DefaultResyncInterval`` (``podautoscaler_controller.go``)."""

TARGET_KV_USAGE = 0.5
"""``targetValue`` of ``targetMetric: gpu_cache_usage_perc`` (``samples/autoscaling/kpa.yaml``)."""

BUCKET_SECONDS = 1.0
"""Windows keep one value a second and drop whole seconds, so they reach one second further."""


@dataclass(frozen=True)
class AibrixSettings:
    """``NewBaseScalingContext`` and the windows of ``metrics/client.go``."""

    target_kv_usage: float = TARGET_KV_USAGE
    stable_seconds: float = 180.0
    panic_seconds: float = 60.0
    panic_threshold: float = 2.0
    """Ratio of the panic window's mean to the stable window's."""
    max_scale_up_rate: float = 2.0
    max_scale_down_rate: float = 2.0
    tolerance: float = 0.1
    """``UpFluctuationTolerance`` and ``DownFluctuationTolerance``."""
    scale_down_cooldown_seconds: float = 300.0
    """``ScaleDownCooldownWindow``; the one for scaling up is zero."""
    period_seconds: float = RESYNC_SECONDS


class Aibrix:
    """Since v0.5.0 the value is the MEAN over Pods, and the count is that mean over the target: two
    at most with the sample's target of 0.5, whatever the load. ``aibrix_04`` has the rule from
    before. Starting Pods have no metric and are left out."""

    def __init__(self, settings: AibrixSettings | None = None) -> None:
        self._settings = settings or AibrixSettings()
        self._stable = Recent(self._settings.stable_seconds + BUCKET_SECONDS)
        self._panic = Recent(self._settings.panic_seconds + BUCKET_SECONDS)
        self._recommended = Recent(self._settings.scale_down_cooldown_seconds)

    @property
    def period_seconds(self) -> float:
        return self._settings.period_seconds

    def wanted(self, seen: Seen) -> int:
        current = seen.wanted
        inside = bounded(max(current, least(seen)), seen)
        packs = reporting(seen)
        if current != inside or not packs:
            return inside
        usage = fmean(kv_usage(pack) for pack in packs)
        self._stable.add(seen.now_seconds, usage)
        self._panic.add(seen.now_seconds, usage)
        recommended = bounded(max(self._recommendation(current), least(seen)), seen)
        return self._cooled_down(seen.now_seconds, current, recommended)

    def _recommendation(self, current: int) -> int:
        stable, panic = fmean(self._stable.kept()), fmean(self._panic.kept())
        count = self._for_usage(stable, current)
        if stable <= 0 or panic / stable > self._settings.panic_threshold:
            # v0.7.0 forgets between two passes how many Pods the panic asked for, so it holds none.
            count = max(count, self._for_usage(panic, current))
        return count

    def _for_usage(self, usage: float, current: int) -> int:
        settings = self._settings
        count, target = current, settings.target_kv_usage
        if not target * (1 - settings.tolerance) <= usage <= target * (1 + settings.tolerance):
            count = math.ceil(usage / target)
        most = max(1, math.ceil(settings.max_scale_up_rate * current))
        fewest = math.floor(current / settings.max_scale_down_rate)
        return min(max(count, fewest), most)

    def _cooled_down(self, now: float, current: int, recommended: int) -> int:
        """Going down takes the LOWEST recommendation of the window, so it delays nothing."""
        self._recommended.add(now, recommended)
        if recommended >= current:
            return recommended
        return int(min([recommended, *self._recommended.kept()]))
