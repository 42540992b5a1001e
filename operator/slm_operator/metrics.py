"""The operator's own metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from slm_operator.api.status import SLMServiceStatus

_SERVICE = ("namespace", "name")


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
        self._point = {
            "output_tokens_per_second": self._gauge(
                "slm_operating_point_output_tokens_per_second", "Throughput of the chosen point."
            ),
            "power_watts": self._gauge(
                "slm_operating_point_power_watts", "Power of the chosen point."
            ),
            "replicas_per_pack": self._gauge(
                "slm_operating_point_replicas", "Replicas per pack of the chosen point."
            ),
        }

    def show(self, namespace: str, name: str, status: SLMServiceStatus) -> None:
        """Sets the service's gauges; a figure that is unknown is absent, not zero."""
        for field, gauge in self._point.items():
            value = getattr(status.operating_point, field, None)
            if value is None:
                gauge.remove(namespace, name)
            else:
                gauge.labels(namespace, name).set(value)

    def forget(self, namespace: str, name: str) -> None:
        for gauge in self._point.values():
            gauge.remove(namespace, name)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, _SERVICE, registry=self.registry)
