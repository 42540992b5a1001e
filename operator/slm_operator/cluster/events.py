"""Events of services, told so that nobody is flooded: what is said again only counts.

The two rules are those of Kubernetes' own clients (client-go, tools/record/events_cache.go): the
same event within ten minutes raises the count of the one that is there; and each service may tell
25 at once and one more every five minutes.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from slm_operator.api.models import API_VERSION, GROUP, KIND, SLMService
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Kube
from slm_operator.decide.decision import Event

log = logging.getLogger(__name__)

REPEATED_SECONDS = 600.0
BURST = 25
REFILL_SECONDS = 300.0
REMEMBERED = 4096
"""Events and services that are kept in mind; the oldest is forgotten first."""
DECISION = f"{GROUP}/decision"
"""The annotation that names the decision in the service's history."""
MESSAGE_CHARACTERS = 1024
"""Most that the API takes."""


@dataclass
class _Told:
    name: str
    count: int
    at_seconds: float


@dataclass
class _Allowance:
    left: float
    at_seconds: float


class Events:
    """``now`` is the time for people (RFC 3339), ``clock`` a monotonic one."""

    def __init__(self, kube: Kube, now: Callable[[], str], clock: Callable[[], float]) -> None:
        self._kube = kube
        self._now = now
        self._clock = clock
        self._told: OrderedDict[tuple[str, ...], _Told] = OrderedDict()
        self._allowances: OrderedDict[str, _Allowance] = OrderedDict()

    async def tell(self, service: SLMService, event: Event) -> None:
        """Never fails: the status holds the same, and a pass is not given up for an event."""
        text = "%s/%s: %s: %s", service.namespace, service.name, event.reason, event.message
        log.info(*text, extra={"decision": event.decision})
        if not self._allowed(service.uid):
            return
        try:
            await self._write(service, event)
        except KubeError as error:
            log.warning("%s/%s: no event: %s", service.namespace, service.name, error)

    async def _write(self, service: SLMService, event: Event) -> None:
        message = event.message[:MESSAGE_CHARACTERS]
        key = (service.uid, event.type, event.reason, message)
        known, seconds = self._told.get(key), self._clock()
        if known is not None and seconds - known.at_seconds < REPEATED_SECONDS:
            again = {"count": known.count + 1, "lastTimestamp": self._now()}
            try:
                await self._kube.merge(_reference(service, known.name), again)
            except KubeError as error:
                if error.status != HTTPStatus.NOT_FOUND:
                    raise
                # The API server keeps events for an hour, or as it is told.
            else:
                known.count, known.at_seconds = known.count + 1, seconds
                return
        now = self._now()
        mark = hashlib.sha256("\0".join((*key, now)).encode()).hexdigest()[:16]
        name = f"{service.name}.{mark}"
        await self._kube.create(_object(service, event, name, message, now))
        _remember(self._told, key, _Told(name, 1, seconds))

    def _allowed(self, uid: str) -> bool:
        seconds = self._clock()
        allowance = self._allowances.get(uid) or _Allowance(BURST, seconds)
        earned = (seconds - allowance.at_seconds) / REFILL_SECONDS
        left = min(float(BURST), allowance.left + earned)
        allowed = left >= 1
        spent = _Allowance(left - 1 if allowed else left, seconds)
        _remember(self._allowances, uid, spent)
        return allowed


def _remember(kept: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > REMEMBERED:
        kept.popitem(last=False)


def _reference(service: SLMService, name: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": service.namespace}
    return {"apiVersion": "v1", "kind": "Event", "metadata": metadata}


def _object(service: SLMService, event: Event, name: str, message: str, now: str) -> dict[str, Any]:
    made = _reference(service, name)
    if event.decision:
        made["metadata"]["annotations"] = {DECISION: event.decision}
    return made | {
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": service.name,
            "namespace": service.namespace,
            "uid": service.uid,
        },
        "type": event.type,
        "reason": event.reason,
        "message": message,
        "source": {"component": "slm-operator"},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
