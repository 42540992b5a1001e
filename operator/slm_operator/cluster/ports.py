"""Which port of the activator is which service's. The statuses keep it; this only divides."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from slm_operator.api.models import API_VERSION, KIND
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Kube
from slm_operator.cluster.reach import refuses
from slm_operator.decide.snapshot import Trouble

log = logging.getLogger(__name__)


class Ports:
    """A bounded range. Nobody new gets a port before all that are taken are known: requests would
    go to another service."""

    def __init__(self, first: int, last: int) -> None:
        self._range = range(first, last + 1)
        self._by_uid: dict[str, int] = {}
        self._taken: set[int] = set()
        self.all_known = False
        self._learned: set[str] = set()
        self._hidden: tuple[str, ...] = ()

    async def learn(self, kube: Kube, namespaces: Sequence[str] = ()) -> None:
        """All that are taken in these namespaces, or in all, but for those that were learned
        before. One that cannot be read keeps ``all_known`` from being set: its services may have
        any port, and their clients may still call. Raises KubeError."""
        hidden = []
        for namespace in namespaces or ("",):
            if namespace in self._learned:
                continue
            try:
                await self._learn(kube, namespace)
            except KubeError as error:
                if not await refuses(kube, namespace, error):
                    raise
                hidden.append(namespace)
            else:
                self._learned.add(namespace)
        before, self._hidden = self._hidden, tuple(hidden)
        self.all_known = not hidden
        if hidden and self._hidden != before:
            log.warning("no service gets a new port of the activator: %s", self.trouble.message)

    async def _learn(self, kube: Kube, namespace: str) -> None:
        async for page in kube.pages(API_VERSION, KIND, namespace):
            for obj in page.items:
                port = (obj.get("status") or {}).get("activatorPort")
                self.saw(obj["metadata"]["uid"], port)

    def saw(self, uid: str, port: int | None) -> None:
        """What a service's status holds. The first one has it, should two say the same."""
        if port is None or port not in self._range:
            return
        if port not in self._taken and uid not in self._by_uid:
            self._take(uid, port)

    def of(self, uid: str) -> int | None:
        """The service's own, a free one if it had none; None while there is none to give."""
        if uid not in self._by_uid and self.all_known:
            free = next((port for port in self._range if port not in self._taken), None)
            if free is not None:
                self._take(uid, free)
        return self._by_uid.get(uid)

    def forget(self, uid: str) -> None:
        port = self._by_uid.pop(uid, None)
        if port is not None:
            self._taken.discard(port)

    @property
    def trouble(self) -> Trouble:
        """Why there is none."""
        if self._hidden:
            text = (
                f"services of {', '.join(self._hidden)} may have any port of the activator, and "
                "cannot be read: give the operator its rights there, or watch it no longer"
            )
            return Trouble("ActivatorPortsUnknown", text)
        if not self.all_known:
            text = "the operator has just begun and does not know all services yet"
            return Trouble("ActivatorPortsUnknown", text)
        return Trouble(
            "ActivatorPortsTaken",
            f"all {len(self._range)} ports of the activator are other services': start the "
            "operator with a larger range of --activator-ports",
        )

    def _take(self, uid: str, port: int) -> None:
        self._by_uid[uid] = port
        self._taken.add(port)
