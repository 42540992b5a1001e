"""The packs that the API server shows, of all services."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence, Set

from slm_operator.cluster.following import Watched, follow
from slm_operator.cluster.kube import Kube, Object
from slm_operator.cluster.pods import read_pack
from slm_operator.decide.snapshot import Pack
from slm_operator.render.children import INSTANCE_LABEL, MANAGED_BY, MANAGED_BY_LABEL

log = logging.getLogger(__name__)

LABELS = f"{MANAGED_BY_LABEL}={MANAGED_BY}"

Owner = tuple[str, str]
"""A service, by namespace and name."""


class Packs:
    """The Pods of all services, read as packs: of a Pod no more is kept, since with thousands the
    rest of them is most of the memory."""

    def __init__(self, changed: Callable[[str, str], None]) -> None:
        """``changed`` is told each service around which something happened."""
        self._changed = changed
        self._owners: dict[str, Owner] = {}
        """By the Pod's UID."""
        self._packs: dict[Owner, dict[str, Pack]] = {}
        self._listed: dict[str, asyncio.Event] = {}
        """By namespace."""
        self.listed = asyncio.Event()
        """Set once all that is there is known, but for namespaces that cannot be read."""

    def of(self, namespace: str, name: str) -> list[Pack]:
        return list(self._packs.get((namespace, name), {}).values())

    def known(self, namespace: str) -> bool:
        """Whether all that is there in this one of the followed namespaces is: not before it was
        first listed, nor while it cannot be read."""
        return self._listed[namespace].is_set()

    async def follow(self, kube: Kube, namespaces: Sequence[str] = ()) -> None:
        """Runs for ever. Without ``namespaces`` those of all are followed."""
        self._listed = {each: asyncio.Event() for each in namespaces or ("",)}
        answered = {each: asyncio.Event() for each in self._listed}
        async with asyncio.TaskGroup() as tasks:
            for namespace, listed in self._listed.items():
                what, part = Watched("v1", "Pod", namespace, LABELS), _Part(self, namespace)
                tasks.create_task(follow(kube, what, part, listed, answered[namespace]))
            for event in answered.values():
                await event.wait()
            self.listed.set()

    def uids(self, namespace: str = "") -> Set[str]:
        """Of the Pods of one namespace, or of all."""
        if not namespace:
            return self._owners.keys()
        return {uid for uid, owner in self._owners.items() if owner[0] == namespace}

    def put(self, pod: Object) -> None:
        """A Pod of which nothing changed that matters here wakes nobody; one that cannot be read
        is nobody's pack."""
        uid = pod["metadata"]["uid"]
        try:
            owner, pack = _owner(pod), read_pack(pod)
        except (KeyError, TypeError, ValueError) as error:
            log.error(
                "%s/%s has the labels of a pack and is none (%r): delete it where an SLMService "
                "owns it, and else remove its label %s",
                pod["metadata"]["namespace"],
                pod["metadata"]["name"],
                error,
                MANAGED_BY_LABEL,
            )
            self.remove(uid)
            return
        if self._owners.get(uid, owner) != owner:
            self.remove(uid)
        packs = self._packs.setdefault(owner, {})
        if packs.get(uid) != pack:
            self._owners[uid] = owner
            packs[uid] = pack
            self._changed(*owner)

    def remove(self, uid: str) -> None:
        owner = self._owners.pop(uid, None)
        if owner is None:
            return
        packs = self._packs[owner]
        del packs[uid]
        if not packs:
            del self._packs[owner]
        self._changed(*owner)


class _Part:
    """The Pods of one namespace, or of all, which are listed together."""

    def __init__(self, packs: Packs, namespace: str) -> None:
        self._packs = packs
        self._namespace = namespace
        self.put = packs.put
        self.remove = packs.remove

    def uids(self) -> Set[str]:
        return self._packs.uids(self._namespace)


def _owner(pod: Object) -> Owner:
    metadata = pod["metadata"]
    return metadata["namespace"], metadata["labels"].get(INSTANCE_LABEL, "")
