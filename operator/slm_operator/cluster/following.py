"""All objects of one kind, kept up to date by a list and the watches that follow it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Set
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Kube, Object

log = logging.getLogger(__name__)

PAUSES_SECONDS = (0.5, 1.0, 2.0, 5.0)
REFUSED_PAUSES_SECONDS = (*PAUSES_SECONDS, 15.0, 30.0)
"""Where a namespace cannot be read, which may be for good."""


@dataclass(frozen=True)
class Watched:
    """Which objects are followed."""

    api_version: str
    kind: str
    namespace: str = ""
    """Empty: all namespaces."""
    labels: str = ""
    metadata_only: bool = False
    """Nothing else of them is sent."""


class View(Protocol):
    """What is made of the objects that are there."""

    def put(self, obj: Object) -> None:
        """``obj`` is there, newly or in another state."""

    def remove(self, uid: str) -> None:
        """The object is gone; one that was never put is no error."""

    def uids(self) -> Set[str]:
        """Of what was put and not removed."""


async def follow(
    kube: Kube,
    what: Watched,
    view: View,
    listed: asyncio.Event,
    answered: asyncio.Event | None = None,
) -> None:
    """Runs for ever; sets ``listed`` once all that is there is known, until the namespace cannot be
    read any more, and ``answered`` once either is the case. After each interruption all is listed
    again: what went meanwhile would else stay in ``view`` for good. A kind that is unknown is one
    more interruption, since an API server that starts says the same.

    So is a store that was restored from an older copy: asked to watch from a version that is still
    to come, it would be silent until it gets there."""
    failures, refused = 0, False
    while True:
        try:
            version = await _list(kube, what, view)
            listed.set()
            if answered is not None:
                answered.set()
            failures, refused = 0, False
            while await kube.version(what.api_version, what.kind, what.namespace) >= int(version):
                version = await _watch(kube, what, view, version)
        except KubeError as error:
            before, refused = refused, bool(what.namespace) and error.shuts_out
            if refused:
                listed.clear()
                if answered is not None:
                    answered.set()
            if error.status != HTTPStatus.GONE and not (before and refused):
                log.warning("lost sight of every %s, listing them again: %s", what.kind, error)
            pauses = REFUSED_PAUSES_SECONDS if refused else PAUSES_SECONDS
            pause = pauses[min(failures, len(pauses) - 1)]
            await asyncio.sleep(max(pause, error.retry_after_seconds))
            failures += 1


async def _list(kube: Kube, what: Watched, view: View) -> str:
    """The version that was listed."""
    there, version = set(), ""
    async for page in kube.pages(
        what.api_version,
        what.kind,
        what.namespace,
        labels=what.labels,
        metadata_only=what.metadata_only,
    ):
        version = page.version
        for obj in page.items:
            there.add(obj["metadata"]["uid"])
            view.put(obj)
    for uid in view.uids() - there:
        view.remove(uid)
    return version


async def _watch(kube: Kube, what: Watched, view: View, version: str) -> str:
    """The version that the watch had reached when it ended."""
    async for event, obj in kube.watch(
        what.api_version,
        what.kind,
        what.namespace,
        labels=what.labels,
        since=version,
        metadata_only=what.metadata_only,
    ):
        version = obj["metadata"]["resourceVersion"]
        if event == "DELETED":
            view.remove(obj["metadata"]["uid"])
        elif event != "BOOKMARK":
            view.put(obj)
    return version
