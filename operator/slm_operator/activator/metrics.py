"""The activator's own metrics."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from slm_operator.activator.wire import Door

Owner = tuple[str, str]
"""Namespace and name of a service."""
Refusal = Literal["Asleep", "LengthRequired", "TooLarge", "BodyTimeout", "Full", "NoPack", "Broken"]
"""BodyTimeout: the client did not send its body in time. NoPack: none was ready in time, or the
activator ends. Broken: the pack ended the connection before it answered."""

_SERVICE = ("namespace", "name")
_WAIT_BUCKETS = (0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)
"""To the longest that a request may wait by default."""
_GAUGES: tuple[tuple[str, str, Callable[[Door], int]], ...] = (
    ("requests_waiting", "Requests that are held.", lambda door: door.waiting),
    (
        "waiting_bytes",
        "Bodies of those that are held or that a pack is taking.",
        lambda door: door.waiting_bytes,
    ),
    ("requests_passing", "Requests that a pack is answering.", lambda door: door.passing),
)


class ActivatorMetrics:
    """Metrics of one activator, in a registry of their own."""

    def __init__(self, doors: Callable[[], Iterable[Door]]) -> None:
        """``doors``: every port as it is now."""
        self.registry = CollectorRegistry()
        self._released = Counter(
            "slm_activator_requests_released_total",
            "Requests that were passed on to a pack.",
            _SERVICE,
            registry=self.registry,
        )
        self._left = Counter(
            "slm_activator_requests_left_total",
            "Requests that their client gave up while they waited.",
            _SERVICE,
            registry=self.registry,
        )
        self._refused = Counter(
            "slm_activator_requests_refused_total",
            "Requests that the activator itself answered.",
            (*_SERVICE, "reason"),
            registry=self.registry,
        )
        self._wait = Histogram(
            "slm_activator_wait_seconds",
            "How long a request that was passed on had waited.",
            _SERVICE,
            buckets=_WAIT_BUCKETS,
            registry=self.registry,
        )
        self._ports: Tally[Owner] = Tally()
        """Mostly one; two while a service changes its port. Of a service without one nothing is
        counted any more."""
        self.registry.register(_Doors(doors))

    def show(self, owner: Owner) -> None:
        """Counters of a service begin at zero when it gets a port, so that the first request of it
        is a rise."""
        self._ports[owner] += 1
        for metric in (self._released, self._left, self._wait):
            metric.labels(*owner)
        for reason in get_args(Refusal):
            self._refused.labels(*owner, reason)

    def released(self, owner: Owner, waited_seconds: float) -> None:
        if owner in self._ports:
            self._released.labels(*owner).inc()
            self._wait.labels(*owner).observe(waited_seconds)

    def left(self, owner: Owner) -> None:
        if owner in self._ports:
            self._left.labels(*owner).inc()

    def refused(self, owner: Owner, reason: Refusal) -> None:
        if owner in self._ports:
            self._refused.labels(*owner, reason).inc()

    def forget(self, owner: Owner) -> None:
        """One port of the service was closed, or is another's now."""
        self._ports[owner] -= 1
        if self._ports[owner] > 0:
            return
        del self._ports[owner]
        for metric in (self._released, self._left, self._wait):
            metric.remove(*owner)
        for reason in get_args(Refusal):
            self._refused.remove(*owner, reason)


class _Doors(Collector):
    def __init__(self, doors: Callable[[], Iterable[Door]]) -> None:
        self._doors = doors

    def collect(self) -> Iterator[Metric]:
        doors = list(self._doors())
        for name, text, value in _GAUGES:
            family = GaugeMetricFamily(f"slm_activator_{name}", text, labels=_SERVICE)
            sums: Tally[Owner] = Tally()
            for door in doors:
                sums[door.route.namespace, door.route.name] += value(door)
            for owner, total in sums.items():
                family.add_metric(owner, total)
            yield family
