"""The pack's state as Prometheus metrics. Counters start anew with the agent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import get_args

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from slm_worker.wire import (
    GpuHealth,
    GpuState,
    Histogram,
    PackState,
    ReplicaPhase,
    RoutedReplica,
    RouterState,
)

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
            "slm_pack_clock_seconds",
            "The agent's clock when the counters were read.",
            value=state.clock_seconds
            if state.counters is None
            else state.counters.sampled_at_seconds,
        )
        yield GaugeMetricFamily(
            "slm_pack_settled", "1 when the pack is what its plan wants.", value=state.settled
        )
        for field, text in (
            ("running", "Sequences in the replica's batch."),
            ("waiting", "Requests in the replica's own queue."),
        ):
            family = GaugeMetricFamily(f"slm_pack_replica_{field}", text, labels=["replica"])
            for one in state.replicas:
                value = getattr(one, field)
                if value is not None:
                    family.add_metric([str(one.index)], value)
            yield family
        failures = GaugeMetricFamily(
            "slm_pack_replica_failures",
            "How often in a row the replica died or did not start.",
            labels=["replica"],
        )
        for one in state.replicas:
            failures.add_metric([str(one.index)], one.failures)
        yield failures
        yield from _gpu(state.gpu)
        yield from _router(state.router)
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


def _gpu(gpu: GpuState) -> Iterator[Metric]:
    """What is unknown has no series, rather than one at zero."""
    utilization = None if gpu.utilization_percent is None else gpu.utilization_percent / 100
    for name, text, value in (
        ("power_watts", "Power of the device.", gpu.power_watts),
        ("gpu_memory_used_bytes", "Memory in use on the device.", gpu.memory_used_bytes),
        ("gpu_utilization_ratio", "Share of time in which some kernel ran.", utilization),
    ):
        if value is not None:
            yield GaugeMetricFamily(f"slm_pack_{name}", text, value=value)
    health = GaugeMetricFamily(
        "slm_pack_gpu_health", "1 for the state that the device is in.", labels=["state"]
    )
    for state in get_args(GpuHealth.model_fields["state"].annotation):
        health.add_metric([state], float(gpu.health.state == state))
    yield health
    throttled = GaugeMetricFamily(
        "slm_pack_gpu_throttled", "1 for each reason that holds the clocks down.", labels=["reason"]
    )
    for reason in gpu.throttle_reasons:
        throttled.add_metric([reason], 1)
    yield throttled


def _router(router: RouterState) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "slm_pack_router_requests", "Requests by the class of their answer.", labels=["answer"]
    )
    for answer, count in (
        ("2xx", router.served),
        ("4xx", router.answered_4xx),
        ("5xx", router.answered_5xx),
        ("none", router.unanswered + router.lost),
    ):
        requests.add_metric([answer], count)
    yield requests
    yield GaugeMetricFamily(
        "slm_pack_router_in_progress", "Requests not answered yet.", value=router.in_progress
    )
    for name, text, value in (
        ("rejected", "Refused with 429, the queue being full.", router.rejected),
        ("timed_out", "Refused with 503, no replica taking them in time.", router.timed_out),
        ("cut", "Ended by their replica within the answer.", router.cut),
        ("left", "Ended by their client before the answer was whole.", router.left),
        ("lost", "In progress when the router died.", router.lost),
        ("retried", "Tried again, a replica taking no connection.", router.retried),
        ("restarts", "Times that the router was replaced.", router.restarts),
    ):
        yield CounterMetricFamily(f"slm_pack_router_{name}", text, value=value)
    yield from _routed(router.replicas)


def _routed(replicas: Sequence[RoutedReplica]) -> Iterator[Metric]:
    in_flight = GaugeMetricFamily(
        "slm_pack_replica_in_flight", "Requests that it works on.", labels=["replica"]
    )
    for one in replicas:
        in_flight.add_metric([str(one.index)], one.in_flight)
    yield in_flight
    for name, text in (
        ("served", "Answered with 2xx."),
        ("refused", "Answered with 4xx."),
        ("failed", "Answered with 5xx."),
        ("cut", "Ended within the answer, by the replica."),
        ("left", "Ended by the client."),
        ("retried", "Tried again, the replica taking no connection."),
    ):
        family = CounterMetricFamily(f"slm_pack_replica_{name}", text, labels=["replica"])
        for one in replicas:
            family.add_metric([str(one.index)], getattr(one, name))
        yield family


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    buckets = [
        (str(bound), float(count))
        for bound, count in zip(histogram.bounds_seconds, histogram.cumulative, strict=True)
    ]
    buckets.append(("+Inf", float(histogram.count)))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=histogram.sum_seconds)
