"""The pack's state as Prometheus metrics. Counters start anew with the agent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from slm_worker.wire import Histogram, PackState, ReplicaPhase

CONTENT_TYPE = CONTENT_TYPE_LATEST


def exposition(state: PackState) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_StateCollector(state))
    return generate_latest(registry)


class _StateCollector(Collector):
    def __init__(self, state: PackState) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        state = self._state
        phases = Counter(one.phase for one in state.replicas)
        replicas = GaugeMetricFamily("slm_pack_replicas", "Replicas by phase.", labels=["phase"])
        for phase in ReplicaPhase:
            replicas.add_metric([phase], phases[phase])
        yield replicas
        yield GaugeMetricFamily(
            "slm_pack_replicas_in_rotation",
            "Replicas that get requests.",
            value=sum(one.in_rotation for one in state.replicas),
        )
        yield GaugeMetricFamily(
            "slm_pack_router_queue", "Requests that wait at the router.", value=state.router_queue
        )
        yield GaugeMetricFamily(
            "slm_pack_settled", "1 when the pack is what its plan wants.", value=state.settled
        )
        if state.gpu.power_watts is not None:
            yield GaugeMetricFamily(
                "slm_pack_power_watts", "Power of the device.", value=state.gpu.power_watts
            )
        yield from self._counters()

    def _counters(self) -> Iterator[Metric]:
        counters = self._state.counters
        if counters is None:
            return
        for name, text, value in (
            ("output_tokens", "Tokens written.", counters.output_tokens),
            ("prompt_tokens", "Tokens read.", counters.prompt_tokens),
            ("requests_completed", "Requests completed.", counters.requests_completed),
            ("preemptions", "Sequences preempted.", counters.preemptions),
            ("saturated_seconds", "Time with all full.", counters.saturated_seconds),
            ("replica_starts", "Engine processes started.", counters.replica_starts),
            ("missed_samples", "Samples that a replica missed.", counters.missed_samples),
        ):
            yield CounterMetricFamily(f"slm_pack_{name}", text, value=value)
        if counters.energy_millijoules is not None:
            yield CounterMetricFamily(
                "slm_pack_energy_joules",
                "Energy that the device used.",
                value=counters.energy_millijoules / 1000,
            )
        yield _histogram("slm_pack_ttft_seconds", "Arrival to first token.", counters.ttft)
        yield _histogram("slm_pack_itl_seconds", "Token to next token.", counters.itl)


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    buckets = [
        (str(bound), float(count))
        for bound, count in zip(histogram.bounds_seconds, histogram.cumulative, strict=True)
    ]
    buckets.append(("+Inf", float(histogram.count)))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=histogram.sum_seconds)
