"""Which port of the activator is which service's. The statuses keep it; this only divides."""

from __future__ import annotations

from collections.abc import Sequence

from slm_operator.api.models import API_VERSION, KIND
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Kube
from slm_operator.cluster.reach import refuses
from slm_operator.decide.snapshot import Trouble


class Ports:
    """A bounded range. Nobody new gets a port before all that are taken are known: requests would
    go to another service."""

    def __init__(self, first: int, last: int) -> None:
        self._range = range(first, last + 1)
        self._by_uid: dict[str, int] = {}
        self._taken: set[int] = set()
        self.all_known = False
        self._some_hidden = False
        """Whether there may be services of namespaces that cannot be read."""

    async def learn(self, kube: Kube, namespaces: Sequence[str] = ()) -> None:
        """All that are taken in these namespaces, or in all. Raises KubeError; a namespace that
        cannot be read counts as empty."""
        some_hidden = False
        for namespace in namespaces or ("",):
            try:
                await self._learn(kube, namespace)
            except KubeError as error:
                if not await refuses(kube, namespace, error):
                    raise
                some_hidden = True
        self._some_hidden = some_hidden
        self.all_known = True

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
            # What cannot be seen was given the first ones, where clients may still call for it.
            ports = reversed(self._range) if self._some_hidden else self._range
            free = next((port for port in ports if port not in self._taken), None)
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
