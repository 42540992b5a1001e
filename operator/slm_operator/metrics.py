"""The operator's own metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator

import aiohttp
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from slm_operator.api.status import SLMServiceStatus
from slm_operator.pareto.objective import Limits

_SERVICE = ("namespace", "name")
_POINT = "slm_operating_point"
_OF_A_SERVICE: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (f"{_POINT}_output_tokens_per_second", "Throughput of the chosen point.", ()),
    (f"{_POINT}_power_watts", "Power of the chosen point.", ()),
    (f"{_POINT}_joules_per_output_token", "Energy of the chosen point.", ()),
    (f"{_POINT}_replicas", "Replicas per pack of the chosen point.", ()),
    ("slm_service_packs", "Packs of the service.", ("state",)),
    ("slm_service_replicas", "Replicas of the service, over all packs.", ("state",)),
    (
        "slm_service_condition",
        "1 where the condition is true, 0 where it is false.",
        ("type", "reason"),
    ),
    ("slm_service_slo_ttft_p95_seconds", "Most that spec.autoscaling.slo.ttftP95 allows.", ()),
    ("slm_service_slo_itl_p95_seconds", "Most that spec.autoscaling.slo.itlP95 allows.", ()),
    ("slm_service_power_budget_watts", "Most that one pack may draw, saturated.", ()),
)
_LAG_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""From a loop that is alone to one that waits behind a thousand slow ones, 8 s."""
_Series = tuple[str, tuple[str, ...]]
"""A gauge and the values of its labels but for the service."""


class Metrics:
    """Metrics of one operator process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.pass_seconds = Histogram(
            "slm_operator_reconcile_seconds", "Length of one pass.", registry=self.registry
        )
        self.lag_seconds = Histogram(
            "slm_operator_reconcile_lag_seconds",
            "From when a pass fell due, by a change or by time, to its begin.",
            buckets=_LAG_BUCKETS,
            registry=self.registry,
        )
        self.waiting = Gauge(
            "slm_operator_reconcile_waiting",
            "Services whose pass is due and has not begun.",
            registry=self.registry,
        )
        self.failed_passes = Counter(
            "slm_operator_reconcile_failures_total",
            "Passes that were refused, not answered, met an object that cannot be read, or failed "
            "by a fault of the operator's own.",
            ("reason",),
            registry=self.registry,
        )
        self.decisions = Counter(
            "slm_decisions_total",
            "Decisions and warnings told as events.",
            ("reason",),
            registry=self.registry,
        )
        self.requests = Counter(
            "slm_operator_requests_total",
            "Requests that the operator sent.",
            ("to", "method", "code"),
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "slm_operator_request_seconds",
            "From sending a request to the head of its answer.",
            ("to",),
            registry=self.registry,
        )
        self._decided = Gauge(
            "slm_decision_timestamp_seconds",
            "When a decision or warning was last told of the service, in Unix time.",
            (*_SERVICE, "reason"),
            registry=self.registry,
        )
        self._reasons: dict[tuple[str, str], set[str]] = {}
        self.leader = Gauge(
            "slm_leader",
            "1 while this process may write: it leads, or is alone by its options.",
            registry=self.registry,
        )
        self.unreadable_namespaces = Gauge(
            "slm_operator_unreadable_namespaces",
            "Watched namespaces that are not there, or that the operator has no right in.",
            registry=self.registry,
        )
        self.cluster_power_budget = Gauge(
            "slm_cluster_power_budget_watts",
            "Most that the GPUs of all services may draw; 0 where the operator has no budget.",
            registry=self.registry,
        )
        self.cluster_power_allotted = Gauge(
            "slm_cluster_power_allotted_watts",
            "What the measured services are counted with under that budget, saturated.",
            registry=self.registry,
        )
        self._gauges = {
            name: Gauge(name, text, (*_SERVICE, *labels), registry=self.registry)
            for name, text, labels in _OF_A_SERVICE
        }
        self._shown: dict[tuple[str, str], frozenset[_Series]] = {}

    def counting(self, to: str) -> aiohttp.ClientMiddlewareType:
        """An aiohttp middleware that counts what is sent to ``to``. Of a watch it sees the begin;
        of one that is given up, as by a permit that ends, nothing."""
        seconds = self.request_seconds.labels(to)

        async def count(
            request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
        ) -> aiohttp.ClientResponse:
            sent, code = time.perf_counter(), "none"
            try:
                answer = await handler(request)
                code = str(answer.status)
            except (TimeoutError, aiohttp.ClientError, OSError):
                self.requests.labels(to, request.method, code).inc()
                raise
            self.requests.labels(to, request.method, code).inc()
            seconds.observe(time.perf_counter() - sent)
            return answer

        return count

    def show(self, namespace: str, name: str, status: SLMServiceStatus, allowed: Limits) -> None:
        """Sets the service's gauges; a figure that is unknown is absent, not zero. ``allowed``:
        what its packs may take."""
        figures = dict(_figures(status)) | dict(_limits(allowed))
        for (gauge, labels), value in figures.items():
            self._gauges[gauge].labels(namespace, name, *labels).set(value)
        self._leave(namespace, name, frozenset(figures))

    def decided(self, namespace: str, name: str, reason: str, at_seconds: float) -> None:
        """A decision or warning of the service was told. ``at_seconds``: Unix time."""
        self.decisions.labels(reason).inc()
        self._decided.labels(namespace, name, reason).set(at_seconds)
        self._reasons.setdefault((namespace, name), set()).add(reason)

    def forget(self, namespace: str, name: str) -> None:
        self._leave(namespace, name, frozenset())
        for reason in self._reasons.pop((namespace, name), ()):
            self._decided.remove(namespace, name, reason)

    def _leave(self, namespace: str, name: str, series: frozenset[_Series]) -> None:
        """Removes every series of the service but ``series``."""
        for gauge, labels in self._shown.pop((namespace, name), frozenset()) - series:
            self._gauges[gauge].remove(namespace, name, *labels)
        if series:
            self._shown[namespace, name] = series


def _figures(status: SLMServiceStatus) -> Iterator[tuple[_Series, float]]:
    point = status.operating_point
    if point is not None:
        yield (f"{_POINT}_output_tokens_per_second", ()), point.output_tokens_per_second
        yield (f"{_POINT}_replicas", ()), point.replicas_per_pack
        if point.power_watts is not None:
            yield (f"{_POINT}_power_watts", ()), point.power_watts
        if point.microjoules_per_output_token is not None:
            joules = point.microjoules_per_output_token / 1e6
            yield (f"{_POINT}_joules_per_output_token", ()), joules
    packs = {"present": status.packs, "ready": status.ready_packs, "desired": status.desired_packs}
    for state, count in packs.items():
        if count is not None:
            yield ("slm_service_packs", (state,)), count
    for state, count in (("started", status.replicas), ("ready", status.ready_replicas)):
        yield ("slm_service_replicas", (state,)), count
    for condition in status.conditions:
        if condition.status != "Unknown":
            series = "slm_service_condition", (condition.type, condition.reason)
            yield series, condition.status == "True"


def _limits(allowed: Limits) -> Iterator[tuple[_Series, float]]:
    for name, limit in (
        ("slm_service_slo_ttft_p95_seconds", allowed.ttft_p95_seconds),
        ("slm_service_slo_itl_p95_seconds", allowed.itl_p95_seconds),
        ("slm_service_power_budget_watts", allowed.power_watts),
    ):
        if limit is not None:
            yield (name, ()), limit
