"""hpa: the HorizontalPodAutoscaler of Kubernetes on the engines' batch size."""

from __future__ import annotations

from dataclasses import dataclass

from slm_operator.simulate.peers.horizontal import (
    DEFAULT_BEHAVIOR,
    SYNC_PERIOD_SECONDS,
    TOLERANCE,
    Behavior,
    Horizontal,
    proposed_by_pods,
)
from slm_operator.simulate.peers.pods import reporting, running
from slm_operator.simulate.seen import Seen


@dataclass(frozen=True)
class HpaSettings:
    """Kubernetes' own defaults but for the metric, which has none.

    Google's guidance for LLM inference on GKE (cloud.google.com/kubernetes-engine/docs/
    best-practices/machine-learning/inference/autoscaling, as of October 2026) scales by queue size
    for cost and by batch size where latency counts; it sets the batch target slightly beneath the
    largest batch. keda-queue is the former, so this is the latter.
    """

    batch_share: float = 0.8
    """Target of ``vllm:num_requests_running``, as a share of the sequences that a Pod's engines
    batch at most. From 0.91 on a full batch would be within the tolerance and scale nothing up."""
    tolerance: float = TOLERANCE
    behavior: Behavior = DEFAULT_BEHAVIOR
    period_seconds: float = SYNC_PERIOD_SECONDS


class Hpa:
    """A Pods metric with an average value. A starting pack is a running Pod without the metric."""

    def __init__(self, settings: HpaSettings | None = None) -> None:
        self._settings = settings or HpaSettings()
        self._controller = Horizontal(self._settings.behavior)

    @property
    def period_seconds(self) -> float:
        return self._settings.period_seconds

    def wanted(self, seen: Seen) -> int:
        packs = reporting(seen)
        slots = max((sum(r.max_num_seqs for r in pack.replicas) for pack in packs), default=1)
        proposed = proposed_by_pods(
            [float(running(pack)) for pack in packs],
            missing=len(seen.packs) - len(packs),
            current=seen.wanted,
            target=self._settings.batch_share * slots,
            tolerance=self._settings.tolerance,
        )
        return self._controller.settled(seen, proposed)
