"""The services as kopf shows them, handed to their loops. Nothing is decided here.

Kopf only tells what happens: its daemons and change handlers would hold each service by a finalizer
and write annotations. What it does not tell is that a service went while no watch ran, or with its
resource definition; so what is there is compared with what is known now and then.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

import kopf

from slm_operator.api.models import GROUP, KIND, PLURAL, VERSION
from slm_operator.cluster.kube import PAGE_OBJECTS, WATCH_SECONDS, Kube, KubeError
from slm_operator.loops import Loops

log = logging.getLogger(__name__)

API_VERSION = f"{GROUP}/{VERSION}"
RESTART_SECONDS = 3.0
SETTLE_SECONDS = 5.0
"""After kopf has listed anew, until all that it listed has surely been handed over."""


class _NoDiffs(kopf.DiffBaseStorage):
    """No handler asks what changed, so kopf need not copy each object whenever it does."""

    def build(self, **_: Any) -> Any:
        return None

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return


async def follow(kube: Kube, loops: Loops) -> None:
    """Runs until kopf, which takes the process's signals, is told to stop."""
    listed = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        forgetting = tasks.create_task(_forget(kube, loops, listed))
        await _watch(loops, listed)
        forgetting.cancel()


async def _watch(loops: Loops, listed: asyncio.Event) -> None:
    while True:
        try:
            await kopf.operator(registry=wire(loops, listed), clusterwide=True, standalone=True)
        except Exception:
            # It gives up on a watch that is forbidden, as an API server answers for a moment
            # after its start, before it has read its roles.
            log.exception("watching ended; again in %g s", RESTART_SECONDS)
        else:
            return
        listed.set()
        await asyncio.sleep(RESTART_SECONDS)


def wire(loops: Loops, listed: asyncio.Event) -> kopf.OperatorRegistry:
    """The handlers; ``listed`` is set whenever kopf shows what is there instead of what happens."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        if os.environ.get("KUBECONFIG"):
            # Named on purpose, so it goes before the account of the Pod that this may run in.
            return kopf.login_with_kubeconfig(**kwargs)
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.startup(registry=registry)
    def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.posting.enabled = False
        settings.persistence.diffbase_storage = _NoDiffs()
        settings.watching.server_timeout = WATCH_SECONDS
        settings.watching.client_timeout = WATCH_SECONDS + 30
        settings.watching.connect_timeout = 10
        settings.watching.chunk_size = PAGE_OBJECTS
        settings.networking.request_timeout = 15
        # Kopf's own go on to 21 s, for which a spec would wait after an outage.
        settings.networking.error_backoffs = (1, 2, 3, 5)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def service_changed(event: Any, **_: Any) -> None:
        obj = {**event["object"], "apiVersion": API_VERSION, "kind": KIND}
        if event["type"] == "DELETED":
            loops.remove(obj["metadata"]["uid"])
            return
        if event["type"] is None:
            listed.set()
        loops.put(obj)

    return registry


async def _forget(kube: Kube, loops: Loops, listed: asyncio.Event) -> None:
    """Ends the loops of services that are gone unseen."""
    while True:
        try:
            async with asyncio.timeout(WATCH_SECONDS):
                await listed.wait()
        except TimeoutError:
            pass
        else:
            await asyncio.sleep(SETTLE_SECONDS)
        listed.clear()
        known = set(loops.uids())
        try:
            there = await kube.uids(API_VERSION, KIND) if known else set()
        except KubeError as error:
            if error.status != 404:
                log.warning("which services are still there is not known: %s", error)
                continue
            there = set()
        for uid in known - there:
            loops.remove(uid)
