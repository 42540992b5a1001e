"""The operator's own metrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from slm_operator.api.status import SLMServiceStatus

_SERVICE = ("namespace", "name")
_POINT = "slm_operating_point"
_OF_A_SERVICE: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (f"{_POINT}_output_tokens_per_second", "Throughput of the chosen point.", ()),
    (f"{_POINT}_power_watts", "Power of the chosen point.", ()),
    (f"{_POINT}_joules_per_output_token", "Energy of the chosen point.", ()),
    (f"{_POINT}_replicas", "Replicas per pack of the chosen point.", ()),
    ("slm_service_packs", "Packs of the service.", ("state",)),
    ("slm_service_replicas", "Replicas of the service, over all packs.", ("state",)),
    ("slm_service_condition", "1 where the condition is true, 0 where it is false.", ("type",)),
)
_Series = tuple[str, tuple[str, ...]]
"""A gauge and the values of its labels but for the service."""


class Metrics:
    """Metrics of one operator process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.pass_seconds = Histogram(
            "slm_operator_reconcile_seconds", "Length of one pass.", registry=self.registry
        )
        self.failed_passes = Counter(
            "slm_operator_reconcile_failures_total",
            "Passes that were refused, not answered, or met an object that cannot be read.",
            ("reason",),
            registry=self.registry,
        )
        self.decisions = Counter(
            "slm_decisions_total",
            "Decisions and warnings told as events.",
            ("reason",),
            registry=self.registry,
        )
        self.leader = Gauge(
            "slm_leader",
            "1 while this process may write: it leads, or is alone by its options.",
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

    def show(self, namespace: str, name: str, status: SLMServiceStatus) -> None:
        """Sets the service's gauges; a figure that is unknown is absent, not zero."""
        figures = dict(_figures(status))
        for (gauge, labels), value in figures.items():
            self._gauges[gauge].labels(namespace, name, *labels).set(value)
        self._leave(namespace, name, frozenset(figures))

    def forget(self, namespace: str, name: str) -> None:
        self._leave(namespace, name, frozenset())

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
            yield ("slm_service_condition", (condition.type,)), condition.status == "True"
