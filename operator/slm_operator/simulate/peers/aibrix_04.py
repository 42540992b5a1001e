"""aibrix-0.4: AIBrix's KPA as it was up to v0.4.1, close to Knative's.

Source: vllm-project/aibrix v0.4.1 (commit f0c65c2e0d41b5a1ca250a1c7eea9fb9cc151baf),
``pkg/controller/podautoscaler/scaler/kpa.go``, ``metrics/client.go`` and ``aggregation/window.go``
there; metric, target and delay from ``samples/autoscaling/kpa.yaml``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean

from slm_operator.simulate.peers.aibrix import RESYNC_SECONDS, TARGET_KV_USAGE
from slm_operator.simulate.peers.pods import bounded, kv_usage, least, reporting
from slm_operator.simulate.peers.recent import Recent
from slm_operator.simulate.seen import Seen


@dataclass(frozen=True)
class Aibrix04Settings:
    """``NewKpaScalingContext``, and the sample's annotation."""

    target_kv_usage: float = TARGET_KV_USAGE
    stable_seconds: float = 60.0
    panic_seconds: float = 10.0
    panic_threshold: float = 2.0
    """Wanted over ready Pods, by the panic window, at which panic begins."""
    max_scale_up_rate: float = 2.0
    max_scale_down_rate: float = 2.0
    scale_down_delay_seconds: float = 180.0
    """``scale-down-delay: 3m`` of the sample; 30 minutes without it."""
    period_seconds: float = RESYNC_SECONDS


class Aibrix04:
    """The value is the sum over Pods, so the count follows the load. A panic lasts until the load
    was below the threshold for a stable window, and only adds."""

    def __init__(self, settings: Aibrix04Settings | None = None) -> None:
        self._settings = settings or Aibrix04Settings()
        self._stable = Recent(self._settings.stable_seconds)
        self._panic = Recent(self._settings.panic_seconds)
        self._delayed = Recent(self._settings.scale_down_delay_seconds)
        self._began = False
        self._panic_at_seconds: float | None = None
        self._panic_pods = 0

    @property
    def period_seconds(self) -> float:
        return self._settings.period_seconds

    def wanted(self, seen: Seen) -> int:
        now, current = seen.now_seconds, seen.wanted
        self._begin(now, current)
        inside = bounded(max(current, least(seen)), seen)
        packs = reporting(seen)
        if not packs:
            return inside
        usage = math.fsum(kv_usage(pack) for pack in packs)
        self._stable.add(now, usage)
        self._panic.add(now, usage)
        if current != inside:
            return inside
        count = self._count(now, ready=len(packs))
        self._delayed.add(now, count)
        highest = int(max([count, *self._delayed.kept()]))
        return bounded(max(highest, least(seen)), seen)

    def _begin(self, now: float, current: int) -> None:
        """More than one Pod at the start is a panic, for a window without history knows nothing."""
        if self._began:
            return
        self._began = True
        self._panic_pods = current
        if current > 1:
            self._panic_at_seconds = now

    def _count(self, now: float, ready: int) -> int:
        settings = self._settings
        stable = math.ceil(fmean(self._stable.kept()) / settings.target_kv_usage)
        panic = math.ceil(fmean(self._panic.kept()) / settings.target_kv_usage)
        if panic / max(1, ready) >= settings.panic_threshold:
            self._panic_at_seconds = now
        elif (
            self._panic_at_seconds is not None
            and now - self._panic_at_seconds > settings.stable_seconds
        ):
            self._panic_at_seconds = None
            self._panic_pods = 0
        count = self._rated(stable, ready)
        if self._panic_at_seconds is None:
            return count
        self._panic_pods = max(self._panic_pods, count, self._rated(panic, ready))
        return self._panic_pods

    def _rated(self, count: int, ready: int) -> int:
        most = max(1, math.ceil(self._settings.max_scale_up_rate * ready))
        fewest = math.floor(ready / self._settings.max_scale_down_rate)
        return min(max(count, fewest), most)
