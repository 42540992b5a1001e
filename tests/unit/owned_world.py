"""What goes with a service's packs, and an API server that stores it."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

from builders import service
from cli_builders import condition
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Object
from slm_operator.cluster.owned import Owned
from slm_operator.render.activation import activator_slices
from slm_operator.render.children import disruption_budget, front_service, token_secret

CHAT = service()
BUDGET = disruption_budget(CHAT, 2)
FRONT = front_service(CHAT)
SLICE = activator_slices(CHAT, "10.0.0.9", 20000, active=True)[0]
SECRET = token_secret(CHAT, "t" * 32)
SERVING = condition("Ready", "True", "Serving")
GENERATIONS = ("PodDisruptionBudget", "EndpointSlice")


def controlled_by(**other: str) -> dict[str, Any]:
    """What a former service of the name left, but for ``other``."""
    (owner,) = FRONT["metadata"]["ownerReferences"]
    return {"ownerReferences": [{**owner, "uid": "former", **other}]}


class Server:
    """Stores objects as an API server does, and shows their metadata when told to."""

    def __init__(self) -> None:
        self.stored: dict[tuple[str, str], dict[str, Any]] = {}
        self.applied: list[tuple[str, bool]] = []
        self.requests: list[str] = []
        self.version = 1
        self.meanwhile: Any = lambda: None
        """Happens after a write, before its answer."""
        self.refusal: KubeError | None = None

    async def apply(self, obj: Object, *, force: bool) -> Object:
        self.requests.append("apply")
        if self.refusal is not None:
            raise self.refusal
        key = obj["kind"], obj["metadata"]["name"]
        before = self.stored.get(key)
        metadata = dict(obj["metadata"])
        uid, version = metadata.pop("uid", None), metadata.pop("resourceVersion", None)
        if uid is not None and (before is None or before["metadata"]["uid"] != uid):
            raise KubeError(422 if before else 409, "Conflict", "uid mismatch")
        if before and version not in (None, before["metadata"]["resourceVersion"]):
            raise KubeError(409, "Conflict", "the object has been modified")
        if before is not None and before["metadata"].get("manager") and not force:
            raise KubeError(409, "Conflict", "another manager's field")
        self.applied.append((obj["kind"], force))
        as_applied = repr({**obj, "metadata": metadata})
        if before is None or before["as applied"] != as_applied:
            self.write(key, metadata | {"uid": self._uid(before)}, as_applied)
        answer = {"metadata": dict(self.stored[key]["metadata"])}
        self.meanwhile()
        return answer

    async def metadata_of(self, obj: Object) -> Object:
        self.requests.append("look")
        found = self.stored.get((obj["kind"], obj["metadata"]["name"]))
        if found is None:
            raise KubeError(404, "NotFound", "not there")
        return dict(found["metadata"])

    async def delete(
        self, api: str, kind: str, name: str, namespace: str, *, uid: str = ""
    ) -> None:
        self.requests.append("delete")
        metadata = self.stored[kind, name]["metadata"]
        assert metadata["uid"] == uid
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        if not metadata.get("finalizers"):
            del self.stored[kind, name]

    def put(self, obj: Object, **metadata: Any) -> Object:
        """Somebody else makes an object of the name of ``obj``, without a field of that."""
        key = obj["kind"], obj["metadata"]["name"]
        uid = f"foreign-{self.version}"
        self.write(key, {"namespace": "default", "name": key[1], "uid": uid, **metadata}, "foreign")
        return copy.deepcopy(self.stored[key])

    def write(self, key: tuple[str, str], metadata: Object, spec: str) -> None:
        self.version += 1
        before = self.stored.get(key, {"metadata": {}})["metadata"].get("generation", 0)
        counted = {"generation": before + 1} if key[0] in GENERATIONS else {}
        changed = {**metadata, "resourceVersion": str(self.version), **counted}
        self.stored[key] = {"metadata": changed, "as applied": spec}

    def edit(self, obj: Object, spec: str = "edited", **metadata: Any) -> None:
        key = obj["kind"], obj["metadata"]["name"]
        self.write(key, {**self.stored[key]["metadata"], **metadata}, spec)

    def status(self, obj: Object) -> None:
        """Its status changes, which is no new generation."""
        self.version += 1
        found = self.stored[obj["kind"], obj["metadata"]["name"]]["metadata"]
        found["resourceVersion"] = str(self.version)

    def lose(self, obj: Object) -> str:
        """Somebody deletes it."""
        uid: str = self.stored.pop((obj["kind"], obj["metadata"]["name"]))["metadata"]["uid"]
        return uid

    def _uid(self, before: Object | None) -> str:
        return f"uid-{self.version}" if before is None else str(before["metadata"]["uid"])


class World:
    def __init__(self) -> None:
        self.server = Server()
        self.owned = Owned(self.server)  # type: ignore[arg-type]
        self.service = CHAT
        self.woken: list[str] = []
        self.waits: KubeError | None = None
        """For what the last pass did."""
        self.owned._wake = lambda namespace, name: self.woken.append(f"{namespace}/{name}")

    async def apply(self, *wanted: Object, also_unchanged: bool = False) -> list[tuple[str, bool]]:
        """What was applied in a pass, and whether by force."""
        self.server.applied.clear()
        self.server.requests.clear()
        self.waits = await self.owned.apply(self.service, wanted, also_unchanged)
        return list(self.server.applied)

    def show(self, obj: Object) -> None:
        """As it is stored now."""
        name = obj["metadata"]["name"]
        stored = self.server.stored[obj["kind"], name]
        child = obj["apiVersion"], obj["kind"], name
        self.owned.see(child, {"metadata": dict(stored["metadata"])})

    async def woken_now(self) -> list[str]:
        await asyncio.sleep(0.01)
        woken, self.woken = self.woken, []
        return woken
