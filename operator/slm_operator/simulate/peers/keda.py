"""keda-queue: KEDA's Prometheus scaler on the requests that wait, as vLLM's production stack ships.

Sources: vllm-project/production-stack vllm-stack-0.1.12 (commit
66b60661aa3052810859a417559e9e830772a091), ``docs/source/use_cases/autoscaling-keda.rst`` and
``helm/templates/scaledobject-vllm.yaml``; kedacore/keda v2.20.2 (commit
68a5b5028f35b22d50597c69819ab32c4e92f21a), ``pkg/scalers/prometheus_scaler.go`` and
``pkg/scaling/executor/scale_scaledobjects.go``.
"""

from __future__ import annotations

from dataclasses import dataclass

from slm_operator.simulate.peers.horizontal import (
    DEFAULT_BEHAVIOR,
    SYNC_PERIOD_SECONDS,
    TOLERANCE,
    Behavior,
    Horizontal,
    proposed_by_total,
)
from slm_operator.simulate.peers.pods import bounded, engines_per_pod, reporting, waiting
from slm_operator.simulate.peers.recent import Recent
from slm_operator.simulate.seen import Seen


@dataclass(frozen=True)
class KedaSettings:
    """The ScaledObject of the production stack's guide."""

    threshold: float = 5.0
    """Waiting requests an engine; KEDA makes it the HPA's ``averageValue``."""
    cooldown_seconds: float = 360.0
    """``cooldownPeriod``: without activity for so long the last pack goes, if none may be left."""
    keepalive_seconds: float = 60.0
    """The guide's other trigger, for scaling to zero: a request came in the last minute."""
    tolerance: float = TOLERANCE
    behavior: Behavior = DEFAULT_BEHAVIOR
    """The chart sets none, so these are the HPA's defaults."""
    period_seconds: float = SYNC_PERIOD_SECONDS
    """``pollingInterval: 15``, and the HPA, which reads through KEDA at each of its own syncs."""


class Keda:
    """An External metric, the sum over the service, that KEDA hands to an HPA. KEDA itself decides
    only between none and one, and only where ``min_packs`` is zero."""

    def __init__(self, settings: KedaSettings | None = None) -> None:
        self._settings = settings or KedaSettings()
        self._controller = Horizontal(self._settings.behavior)
        self._arrived = Recent(self._settings.keepalive_seconds)
        self._arrived_before = 0
        self._active_at_seconds: float | None = None

    @property
    def period_seconds(self) -> float:
        return self._settings.period_seconds

    def wanted(self, seen: Seen) -> int:
        packs = reporting(seen)
        total = sum(waiting(pack) for pack in packs)
        if seen.min_packs == 0:
            idle = self._idle(seen, total)
            if seen.wanted == 0:
                return bounded(0 if idle else 1, seen)
            if idle and self._cooled_down(seen.now_seconds):
                return 0
        threshold = self._settings.threshold * engines_per_pod(packs)
        proposed = proposed_by_total(total, threshold, len(seen.packs), self._settings.tolerance)
        return self._controller.settled(seen, proposed)

    def _idle(self, seen: Seen, total: int) -> bool:
        self._arrived.add(seen.now_seconds, seen.counters.arrived - self._arrived_before)
        self._arrived_before = seen.counters.arrived
        active = total > 0 or sum(self._arrived.kept()) > 0
        if active or self._active_at_seconds is None:
            self._active_at_seconds = seen.now_seconds
        return not active

    def _cooled_down(self, now_seconds: float) -> bool:
        since = self._active_at_seconds
        return since is not None and now_seconds - since > self._settings.cooldown_seconds
