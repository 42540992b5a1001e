"""The services as kopf shows them, handed to their loops. Nothing is decided here.

Kopf only tells what happens: its daemons and change handlers would hold each service by a finalizer
and write annotations. What it does not tell is that a service went while no watch ran, or with its
resource definition; and a watch that an API server took while it started may stay silent. So what
is there is compared with what is known, now and then and after each outage.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import kopf
from kopf._cogs.structs.references import NAMESPACES, Insights, NamespaceName

from slm_operator.api.models import API_VERSION, GROUP, KIND, PLURAL, VERSION
from slm_operator.cluster.configuration import configuration
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import PAGE_OBJECTS, WATCH_SECONDS, Kube
from slm_operator.cluster.reach import Reach
from slm_operator.loops import Loops

log = logging.getLogger(__name__)

RESTART_SECONDS = 3.0
SERVED_SECONDS = 1.0
"""Between two looks for a resource that is not there yet."""
VERSION_SECONDS = 5.0
"""Between two looks at the version of all that is stored."""
SETTLE_SECONDS = 5.0
"""After kopf has listed anew, until all that it listed has surely been handed over."""
COMPARE_SECONDS = 60.0
"""Between two comparisons of what is there with what is known, for which a part of every service is
read."""
SUSPECT_SECONDS = 10.0
"""Until it is looked again whether a watch that shows nothing is silent."""


class _NoDiffs(kopf.DiffBaseStorage):
    """No handler asks what changed, so kopf need not copy each object whenever it does."""

    def build(self, **_: Any) -> Any:
        return None

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return


async def follow(kube: Kube, loops: Loops, reach: Reach) -> None:
    """Runs until kopf, which takes the process's signals, is told to stop."""
    listed, restored = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        looking = (
            tasks.create_task(_compare(kube, loops, listed, restored, reach)),
            tasks.create_task(_notice_breaks(kube, loops, listed, restored, reach)),
        )
        await _until_served(kube)
        await _watch(kube, loops, listed, restored, reach)
        for task in looking:
            task.cancel()


async def _until_served(kube: Kube) -> None:
    """Waits until the API server tells of the resource. Kopf, told too early, may never ask again:
    a new resource shows in what is served a moment after the last event that it goes by."""
    told = False
    while True:
        try:
            if await kube.serves(API_VERSION, KIND):
                return
            if not told:
                log.warning("the cluster knows no %s yet: apply crds/ or install the chart", KIND)
                told = True
        except KubeError as error:
            log.warning("whether %s is served is not known: %s", KIND, error)
        await asyncio.sleep(SERVED_SECONDS)


async def _watch(
    kube: Kube, loops: Loops, listed: asyncio.Event, restored: asyncio.Event, reach: Reach
) -> None:
    clusterwide = reach.namespaces == ("",)
    while True:
        with suppress(KubeError):  # kopf tries in any case
            await reach.look(kube, reach.namespaces)
        reach.followed = reach.readable
        restored.clear()
        try:
            await _until_any_ends(
                await kopf.spawn_tasks(
                    registry=wire(loops, listed),
                    clusterwide=clusterwide,
                    namespaces=() if clusterwide else reach.namespaces,
                    insights=None if clusterwide else _insights(reach.followed),
                    standalone=True,
                    stop_flag=restored,
                )
            )
        except Exception:
            # It gives up on a watch that is forbidden, be it of one namespace alone, as an API
            # server answers for a moment after its start, before it has read its roles.
            log.exception("watching ended; again in %g s", RESTART_SECONDS)
        else:
            if not restored.is_set():
                log.info("kopf was told to stop: the operator ends")
                return
        listed.set()
        await asyncio.sleep(RESTART_SECONDS)


def _insights(namespaces: Sequence[str]) -> Insights:
    """What kopf knows of the cluster from the start: these namespaces, and no kind by which it
    would look for others. It may not list them, and would take 11 s to give that up."""
    insights = Insights(namespaces={NamespaceName(each) for each in namespaces})
    insights.backbone.selectors.remove(NAMESPACES)
    return insights


def wire(loops: Loops, listed: asyncio.Event) -> kopf.OperatorRegistry:
    """The handlers; ``listed`` is set whenever kopf shows what is there instead of what happens."""
    registry = kopf.OperatorRegistry()

    # Where it fails, watching ends and begins anew, sooner than kopf would try again.
    @kopf.on.login(registry=registry, errors=kopf.ErrorsMode.PERMANENT)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return await login_as_the_client()

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
        # Kopf keeps the object, of which the status is the most and nothing of kopf's.
        event["object"].pop("status", None)
        if event["type"] == "DELETED":
            loops.remove(obj["metadata"]["uid"])
            return
        if event["type"] is None:
            listed.set()
        loops.put(obj)

    return registry


@dataclass(frozen=True, kw_only=True)
class _Connection(kopf.ConnectionInfo):
    """Kopf's own takes the host of ``server`` for the name in its certificate."""

    tls_server_name: str | None = None

    def as_ssl_context(self) -> ssl.SSLContext:
        context = super().as_ssl_context()
        name = self.tls_server_name
        if name:
            wrap = context.wrap_bio

            def wrap_bio(
                incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **more: Any
            ) -> ssl.SSLObject:
                return wrap(incoming, outgoing, **{**more, "server_hostname": name})

            context.wrap_bio = wrap_bio  # type: ignore[method-assign, assignment]
        return context


async def login_as_the_client() -> kopf.ConnectionInfo:
    """As the operator's own client connects, by what is there now: kopf asks again when the API
    server no longer knows a token. Its own reading of a kubeconfig runs no command for a token, and
    takes relative paths to be of the working directory."""
    found = await configuration()
    header = await found.get_api_key_with_prefix("BearerToken") or ""
    scheme, _, token = header.partition(" ")
    return _Connection(
        server=found.host,
        tls_server_name=found.tls_server_name,
        ca_path=found.ssl_ca_cert,
        insecure=not found.verify_ssl,
        scheme=scheme or None,
        token=token.strip() or None,
        certificate_path=found.cert_file,
        private_key_path=found.key_file,
        proxy_url=found.proxy,
    )


async def _until_any_ends(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Then all of them end; raises what broke one. `kopf.operator` would also end every other task
    that is younger than itself: the loops of all services, and their passes."""
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in ended:
        if not task.cancelled():
            task.result()


async def _notice_breaks(
    kube: Kube,
    loops: Loops,
    listed: asyncio.Event,
    restored: asyncio.Event,
    reach: Reach,
) -> None:
    """Sets ``restored`` when what is stored was restored from an older copy. Kopf goes on watching
    from the version that it has reached, through any outage, and hears nothing until the store
    gets there; begun anew, it lists what is there. So too when the resource itself was gone, or a
    namespace can be read that could not. Sets ``listed`` after each outage."""
    newest, gone, away = 0, False, False
    while True:
        await asyncio.sleep(VERSION_SECONDS)
        newest = max(newest, loops.newest_version)
        try:
            await reach.look(kube, reach.left_out)
            version = await reach.version(kube)
            back = gone and await kube.serves(API_VERSION, KIND)
        except KubeError as error:
            gone, away = gone or error.status == HTTPStatus.NOT_FOUND, True
            continue  # whoever needs the API server says so
        if away:
            away = False
            listed.set()
        if version < newest:
            log.warning("what is stored was restored: version %d after %d", version, newest)
            loops.newest_version = 0
            restored.set()
        if back:
            log.warning("%s is served again", KIND)
            gone = False
            restored.set()
        if set(reach.readable) - set(reach.followed):
            restored.set()
        newest = version


async def _compare(
    kube: Kube,
    loops: Loops,
    listed: asyncio.Event,
    restored: asyncio.Event,
    reach: Reach,
) -> None:
    """Ends the loops of services that are gone unseen. A loop's end deletes packs, so it takes two
    answers that agree: what stands between may answer once for an API server that is away. Sets
    ``restored`` where something was there, and not shown, from one comparison to the next."""
    hidden: dict[str, int] = {}
    pause_seconds = COMPARE_SECONDS
    while True:
        try:
            async with asyncio.timeout(pause_seconds):
                await listed.wait()
        except TimeoutError:
            pass
        newest = loops.newest_version
        await asyncio.sleep(SETTLE_SECONDS)
        # What was listed until here is looked at now.
        listed.clear()
        gone, unseen = await _differences(kube, loops, reach)
        if gone:
            await asyncio.sleep(SETTLE_SECONDS)
            still_gone, unseen = await _differences(kube, loops, reach)
            for uid in gone & still_gone:
                loops.remove(uid)
        # A version that was there at the last comparison may have been written over since.
        silent = [uid for uid, unseen_one in unseen.items() if unseen_one.seen < hidden.get(uid, 0)]
        hidden = {uid: unseen_one.there for uid, unseen_one in unseen.items()}
        if silent:
            log.warning("the watch shows %d changes of services not: it begins anew", len(silent))
            restored.set()
            hidden = {}
        # What a watch has yet to show is nothing to hurry for while it shows others.
        suspect = hidden and loops.newest_version == newest
        pause_seconds = SUSPECT_SECONDS if suspect else COMPARE_SECONDS


@dataclass(frozen=True)
class _Unseen:
    """Versions of a service."""

    there: int
    seen: int


async def _differences(
    kube: Kube, loops: Loops, reach: Reach
) -> tuple[set[str], dict[str, _Unseen]]:
    """Services that have a loop and are not there, and those of which a version is there that has
    not come to its loop; none of a namespace while that cannot be known."""
    # Before they are asked for: one that comes meanwhile is not gone.
    known = loops.versions()
    there: dict[str, int] = {}
    for namespace in reach.namespaces:
        found = await _there(kube, namespace) if namespace in reach.readable else None
        there |= loops.versions(namespace) if found is None else found
    seen = loops.versions()
    versions = ((uid, _Unseen(at, seen.get(uid, 0))) for uid, at in there.items())
    unseen = {uid: found for uid, found in versions if found.there > found.seen}
    return known.keys() - there.keys(), unseen


async def _there(kube: Kube, namespace: str) -> dict[str, int] | None:
    """The versions of all services of one namespace, or of all, by UID; None while they cannot be
    known."""
    try:
        return await kube.versions(API_VERSION, KIND, namespace)
    except KubeError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            log.warning("which services are there is not known: %s", error)
            return None
    try:
        # What answers 404 for the resource alone is an API server without it.
        await kube.version("v1", "Pod", namespace)
    except KubeError as error:
        log.warning("whether all services are gone is not known: %s", error)
        return None
    return {}
