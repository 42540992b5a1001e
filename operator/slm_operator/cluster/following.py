"""All objects of one kind, kept up to date by a list and the watches that follow it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Set
from typing import Protocol

from slm_operator.cluster.kube import Kube, KubeError, Object

log = logging.getLogger(__name__)

PAUSES_SECONDS = (0.5, 1.0, 2.0, 5.0)
GONE = 410


class View(Protocol):
    """What is made of the objects that are there."""

    def put(self, obj: Object) -> None:
        """``obj`` is there, newly or in another state."""

    def remove(self, uid: str) -> None:
        """The object is gone; one that was never put is no error."""

    def uids(self) -> Set[str]:
        """Of what was put and not removed."""


async def follow(
    kube: Kube, api_version: str, kind: str, view: View, listed: asyncio.Event, *, labels: str = ""
) -> None:
    """Runs for ever; sets ``listed`` once all that is there is known. After each interruption all
    is listed again: what went meanwhile would else stay in ``view`` for good. A kind that is
    unknown is one more interruption, since an API server that starts says the same.

    So is a store that was restored from an older copy: asked to watch from a version that is still
    to come, it would be silent until it gets there."""
    failures = 0
    while True:
        try:
            version = await _list(kube, api_version, kind, view, labels)
            listed.set()
            failures = 0
            while await kube.version(api_version, kind) >= int(version):
                version = await _watch(kube, api_version, kind, view, labels, version)
        except KubeError as error:
            if error.status != GONE:
                log.warning("lost sight of every %s, listing them again: %s", kind, error)
            pause = PAUSES_SECONDS[min(failures, len(PAUSES_SECONDS) - 1)]
            await asyncio.sleep(max(pause, error.retry_after_seconds))
            failures += 1


async def _list(kube: Kube, api_version: str, kind: str, view: View, labels: str) -> str:
    """The version that was listed."""
    there = set()
    page = await kube.page(api_version, kind, labels=labels)
    while True:
        for obj in page.items:
            there.add(obj["metadata"]["uid"])
            view.put(obj)
        if not page.after:
            break
        page = await kube.page(api_version, kind, labels=labels, after=page.after)
    for uid in view.uids() - there:
        view.remove(uid)
    return page.version


async def _watch(
    kube: Kube, api_version: str, kind: str, view: View, labels: str, version: str
) -> str:
    """The version that the watch had reached when it ended."""
    async for event, obj in kube.watch(api_version, kind, labels=labels, since=version):
        version = obj["metadata"]["resourceVersion"]
        if event == "DELETED":
            view.remove(obj["metadata"]["uid"])
        elif event != "BOOKMARK":
            view.put(obj)
    return version
