"""The packs that the API server shows, kept up to date by one watch for all services."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from slm_operator.cluster.kube import Kube, KubeError, Object
from slm_operator.cluster.pods import read_pack
from slm_operator.decide.snapshot import Pack
from slm_operator.render.children import INSTANCE_LABEL, MANAGED_BY, MANAGED_BY_LABEL

log = logging.getLogger(__name__)

LABELS = f"{MANAGED_BY_LABEL}={MANAGED_BY}"
PAUSES_SECONDS = (0.5, 1.0, 2.0, 5.0)
GONE = 410

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
        self.listed = asyncio.Event()
        """Set once all that is there is known."""

    def of(self, namespace: str, name: str) -> list[Pack]:
        return list(self._packs.get((namespace, name), {}).values())

    async def follow(self, kube: Kube) -> None:
        """Runs for ever. After each interruption all is listed again: what went meanwhile would
        else stay here for good."""
        failures = 0
        while True:
            try:
                version = await self._list(kube)
                failures = 0
                while True:
                    version = await self._watch(kube, version)
            except KubeError as error:
                if error.status != GONE:
                    log.warning("lost sight of the packs, listing them again: %s", error)
                await asyncio.sleep(PAUSES_SECONDS[min(failures, len(PAUSES_SECONDS) - 1)])
                failures += 1

    async def _list(self, kube: Kube) -> str:
        """The version that was listed."""
        there = set()
        page = await kube.page("v1", "Pod", labels=LABELS)
        while True:
            for pod in page.items:
                there.add(pod["metadata"]["uid"])
                self._put(pod)
            if not page.after:
                break
            page = await kube.page("v1", "Pod", labels=LABELS, after=page.after)
        for uid in self._owners.keys() - there:
            self._remove(uid)
        self.listed.set()
        return page.version

    async def _watch(self, kube: Kube, version: str) -> str:
        """The version that the watch had reached when it ended."""
        async for kind, pod in kube.watch("v1", "Pod", labels=LABELS, since=version):
            version = pod["metadata"]["resourceVersion"]
            if kind == "DELETED":
                self._remove(pod["metadata"]["uid"])
            elif kind != "BOOKMARK":
                self._put(pod)
        return version

    def _put(self, pod: Object) -> None:
        """A Pod of which nothing changed that matters here wakes nobody; one that cannot be read
        is nobody's pack."""
        uid = pod["metadata"]["uid"]
        try:
            owner, pack = _owner(pod), read_pack(pod)
        except (KeyError, TypeError, ValueError) as error:
            log.error(
                "%s/%s has the labels of a pack and is none (%r): remove its label %s",
                pod["metadata"]["namespace"],
                pod["metadata"]["name"],
                error,
                MANAGED_BY_LABEL,
            )
            self._remove(uid)
            return
        if self._owners.get(uid, owner) != owner:
            self._remove(uid)
        packs = self._packs.setdefault(owner, {})
        if packs.get(uid) != pack:
            self._owners[uid] = owner
            packs[uid] = pack
            self._changed(*owner)

    def _remove(self, uid: str) -> None:
        owner = self._owners.pop(uid, None)
        if owner is None:
            return
        packs = self._packs[owner]
        del packs[uid]
        if not packs:
            del self._packs[owner]
        self._changed(*owner)


def _owner(pod: Object) -> Owner:
    metadata = pod["metadata"]
    return metadata["namespace"], metadata["labels"].get(INSTANCE_LABEL, "")
