"""What goes with the packs of all services: applied where it changes, and again where somebody else
has changed or deleted it.

A watch tells of the latter, since applying all of it now and then would be thousands of writes
where nothing changes. Secrets are not watched: that would take the right to read every Secret of
the cluster. A pack that misses its own, or whose agent was given another token, shows it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from http import HTTPStatus

from slm_operator.api.models import KIND, SLMService
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.following import Watched, follow
from slm_operator.cluster.kube import Kube, Object
from slm_operator.cluster.owners import controller_of, is_service
from slm_operator.render import activation
from slm_operator.render.children import INSTANCE_LABEL, MANAGED_BY, MANAGED_BY_LABEL, PACK_LABEL

RESTORE_SECONDS = 1.0
"""From a change that is seen to the look whether it was this operator's own, whose answer may come
after it; and so how often two that disagree about an object can write it."""
GONE = 0
"""The state of an object that was deleted."""
WATCHED = (
    ("v1", "Service", MANAGED_BY_LABEL),
    ("policy/v1", "PodDisruptionBudget", MANAGED_BY_LABEL),
    # Kubernetes gives its own slices of a Service the labels of that.
    (activation.API_VERSION, activation.KIND, activation.MANAGED_BY_LABEL),
)

FOUND_BY = (MANAGED_BY_LABEL, INSTANCE_LABEL, PACK_LABEL)
"""Labels that make a Pod of a service's own one of its packs."""
ANOTHER = (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY)
"""How a write to an object of a certain UID is refused where that is gone."""
OF_NO_OBJECT = "1"
"""A version that no object has, so that what is applied with it is made, or refused (409) where one
is there. Without it an object of somebody else's that has other fields would be taken over."""

Child = tuple[str, str, str]
"""Version, kind and name."""


class FormerServiceError(KubeError):
    """An object of a former service of the name has the name of one of this service's, and goes."""

    def __init__(self, what: str) -> None:
        waits = f"this {KIND} waits until {what} of the former {KIND} of its name has ended"
        super().__init__(HTTPStatus.CONFLICT, "FormerService", waits)


@dataclass(slots=True)
class _Kept:
    """One object."""

    uid: str = ""
    """Empty while no object is known that is the service's own."""
    lost: str = ""
    """UID of the one that was, while it may be there without the label that the watch goes by."""
    mark: str = ""
    """Hash of what was last applied; empty when it has to be applied again."""
    applied: int | None = None
    """The object's state as that was answered."""
    shown: int | None = None
    """Its state as the watch last showed it, while it was the service's own."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Whose object it is, and which."""

    service_uid: str
    namespace: str
    service: str
    child: Child


class Owned:
    """One for all services. Calls about one service must not overlap."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._wake: Callable[[str, str], None] = lambda namespace, name: None
        self._of: dict[str, dict[Child, _Kept]] = {}
        """By the service's UID."""
        self._places: dict[str, _Place] = {}
        """By the object's own."""

    async def follow(
        self, wake: Callable[[str, str], None], namespaces: Sequence[str] = ()
    ) -> None:
        """Runs for ever; ``wake`` is told each service of which something has to be applied again.
        Without ``namespaces`` those of all are followed."""
        self._wake = wake
        async with asyncio.TaskGroup() as tasks:
            for api_version, kind, label in WATCHED:
                for namespace in namespaces or ("",):
                    what = Watched(
                        api_version, kind, namespace, f"{label}={MANAGED_BY}", metadata_only=True
                    )
                    view = _Part(self, api_version, kind, namespace)
                    tasks.create_task(follow(self._kube, what, view, asyncio.Event()))

    async def apply(
        self, service: SLMService, wanted: Iterable[Object], also_unchanged: bool
    ) -> FormerServiceError | None:
        """Applies each where it is not as it was applied, or ``also_unchanged``. What somebody set
        in the service's own object is overwritten; an object of that name that is not its own is a
        conflict. Returns what keeps one of them waiting, of which the others are independent.
        Raises KubeError."""
        waits = None
        of = self._of.setdefault(service.uid, {})
        for obj in wanted:
            child = obj["apiVersion"], obj["kind"], obj["metadata"]["name"]
            kept = of.setdefault(child, _Kept())
            mark = hashlib.sha256(repr(obj).encode()).hexdigest()
            if kept.mark == mark and not also_unchanged:
                continue
            if kept.shown == GONE:
                kept.shown = None
            # Before it is answered: what is seen meanwhile takes it away again.
            kept.mark = mark
            try:
                answer = await self._write(service, obj, kept)
            except FormerServiceError as error:
                kept.mark, waits = "", error
                continue
            except BaseException:
                kept.mark = ""
                raise
            owner = controller_of(answer)
            if owner is None or owner["uid"] != service.uid:
                continue
            place = _Place(service.uid, service.namespace, service.name, child)
            self._places[answer["uid"]] = place
            kept.uid, kept.lost = answer["uid"], ""
            before, kept.applied = kept.applied, _state(answer)
            if kept.applied != before:
                self._look_soon(place, kept)
        return waits

    async def make(self, service: SLMService, obj: Object) -> None:
        """Makes what is not kept as it was made, such as a Pod. The service's own that is there
        already stays as it is, but for labels by which it is found; another's is a conflict.
        Raises KubeError."""
        try:
            await self._kube.apply(_bound(obj, ""))
        except KubeError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
        else:
            return
        there = await self._own(service, obj)
        if there is not None and "deletionTimestamp" not in there:
            await self._label(obj, there)

    async def _label(self, obj: Object, there: Object) -> None:
        """Without its labels the watch does not show it, and its name is taken all the same."""
        has = there.get("labels") or {}
        wanted = obj["metadata"]["labels"]
        lacks = {k: wanted[k] for k in FOUND_BY if has.get(k) != wanted[k]}
        if not lacks:
            return
        try:
            # Applied, it would lose all other fields, of which those of a Pod are immutable.
            await self._kube.merge(obj, {"metadata": {"uid": there["uid"], "labels": lacks}})
        except KubeError as error:
            metadata, labels = obj["metadata"], ", ".join(f"{k}={v}" for k, v in lacks.items())
            raise KubeError(
                error.status,
                error.reason,
                f"the {obj['kind']} {metadata['namespace']}/{metadata['name']} is this {KIND}'s "
                f"own and lacks {labels}, which cannot be put back ({error.message}): label it "
                "so, or delete it, and another is made",
                error.retry_after_seconds,
            ) from error

    async def _write(self, service: SLMService, obj: Object, kept: _Kept) -> Object:
        """The object's metadata as it was answered."""
        uid = kept.uid or kept.lost
        # An operator that has just begun knows of nothing that a service has, which was served.
        look = not uid and bool(service.status.conditions)
        while True:
            if look:
                there = await self._own(service, obj)
                uid = "" if there is None else str(there["uid"])
            try:
                answer = await self._kube.apply(_bound(obj, uid), force=bool(uid))
                return dict(answer["metadata"])
            except KubeError as error:
                if look or error.status not in (ANOTHER if uid else (HTTPStatus.CONFLICT,)):
                    raise
            look = True

    async def _own(self, service: SLMService, obj: Object) -> Object | None:
        """The metadata of the object that is there under the name of ``obj``. Raises KubeError,
        also when it is not the service's own. A former service's is deleted."""
        try:
            metadata = await self._kube.metadata_of(obj)
        except KubeError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise
        owner = controller_of(metadata)
        if owner is not None and owner["uid"] == service.uid:
            return metadata
        name = obj["metadata"]["name"]
        what = f"the {obj['kind']} {service.namespace}/{name}"
        if owner is not None and is_service(owner, service.name):
            # A former one, since of a name there is one at a time, and nothing is done for it any
            # more. As garbage collection does, which may lag; a finalizer may hold it for longer.
            if "deletionTimestamp" not in metadata:
                where = obj["apiVersion"], obj["kind"], name, service.namespace
                await self._kube.delete(*where, uid=metadata["uid"])
            raise FormerServiceError(what)
        whose = "nobody's" if owner is None else f"that of {owner['kind']} {owner['name']}"
        raise KubeError(
            HTTPStatus.CONFLICT,
            "Conflict",
            f"{what} is not this {KIND}'s but {whose}, so it is left as it is: rename the {KIND}, "
            "or delete what is in its place",
        )

    async def remove(self, service_uid: str, namespace: str, only: str = "") -> bool:
        """Deletes what is known to be the service's own, or of that the kind ``only``. False when
        there was none. Raises KubeError."""
        known = self._of.get(service_uid, {}).items()
        own = [(child, kept.uid) for child, kept in known if kept.uid and only in ("", child[1])]
        for (version, kind, name), uid in own:
            await self._kube.delete(version, kind, name, namespace, uid=uid)
        return bool(own)

    def forget(self, service_uid: str) -> None:
        """All that is known of the service's objects. They stay as they are."""
        for kept in self._of.pop(service_uid, {}).values():
            self._places.pop(kept.uid, None)

    def see(self, child: Child, obj: Object) -> None:
        """The object is there, newly or in another state."""
        metadata = obj["metadata"]
        owner, uid = controller_of(metadata), metadata["uid"]
        if owner is None or owner["kind"] != KIND:
            self._lose(uid, taken=True)
            return
        place = _Place(owner["uid"], metadata["namespace"], owner["name"], child)
        self._places[uid] = place
        kept = self._of.setdefault(place.service_uid, {}).setdefault(child, _Kept())
        kept.uid, kept.lost, kept.shown = uid, "", _state(metadata)
        self._look_soon(place, kept)

    def miss(self, uid: str) -> None:
        """The object is gone, or has not the label any more that the watch goes by."""
        self._lose(uid, taken=False)

    def _lose(self, uid: str, *, taken: bool) -> None:
        """``taken``: it is there, and no service's any more."""
        place = self._places.pop(uid, None)
        if place is None:
            return
        of = self._of.get(place.service_uid, {})
        kept = of.get(place.child)
        if kept is None or kept.uid != uid:
            return
        kept.uid, kept.lost, kept.shown = "", "" if taken else uid, GONE
        self._look_soon(place, kept)
        if kept.applied is None:
            # Of a service that has ended, or has not begun.
            del of[place.child]
            if not of:
                del self._of[place.service_uid]

    def uids(self, api_version: str, kind: str, namespace: str) -> Set[str]:
        """Of the objects of one kind in one namespace, or in all."""
        return {
            uid
            for uid, place in self._places.items()
            if place.child[:2] == (api_version, kind) and namespace in ("", place.namespace)
        }

    def _look_soon(self, place: _Place, kept: _Kept) -> None:
        if _differs(kept):
            asyncio.get_running_loop().call_later(RESTORE_SECONDS, self._look, place, kept)

    def _look(self, place: _Place, kept: _Kept) -> None:
        if kept.mark and _differs(kept):
            kept.mark = ""
            self._wake(place.namespace, place.service)


class _Part:
    """The objects of one kind in one namespace, or in all, which are listed together."""

    def __init__(self, owned: Owned, api_version: str, kind: str, namespace: str) -> None:
        self._owned = owned
        self._of = api_version, kind
        self._namespace = namespace
        self.remove = owned.miss

    def put(self, obj: Object) -> None:
        self._owned.see((*self._of, obj["metadata"]["name"]), obj)

    def uids(self) -> Set[str]:
        return self._owned.uids(*self._of, self._namespace)


def _bound(obj: Object, uid: str) -> Object:
    """To be applied to the object of that UID alone; without one, where none is there."""
    alone = {"uid": uid} if uid else {"resourceVersion": OF_NO_OBJECT}
    return {**obj, "metadata": {**obj["metadata"], **alone}}


def _differs(kept: _Kept) -> bool:
    """Whether the object is shown in another state than it was last applied."""
    return None not in (kept.applied, kept.shown) and kept.applied != kept.shown


def _state(metadata: Object) -> int:
    """Changes with what is wanted of the object, and for a kind that counts its generations not
    with its status, which others write."""
    version = metadata.get("generation") or metadata.get("resourceVersion")
    return hash((metadata["uid"], version, *sorted((metadata.get("labels") or {}).items())))
