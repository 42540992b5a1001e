"""A cluster with one service, and operators over it that can be killed at any await."""

from __future__ import annotations

import asyncio
import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from builders import H100_OPT_1_3B, pack_state
from slm_operator.api.models import API_VERSION, KIND
from slm_operator.cluster.agents import AgentError
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.pods import read_pack
from slm_operator.controller import Controller, Settings
from slm_operator.decide.snapshot import Pack
from slm_operator.keys import Keys, Tokens
from slm_operator.metrics import Metrics
from slm_operator.pareto.window import WindowRules
from slm_worker.wire import Counters, PackState, Plan

RULES = WindowRules(min_seconds=2, max_seconds=4, warmup_seconds=1)
QUIET_SECONDS = 6
"""Longer than a window, in which nothing is written."""
MOST_SECONDS = 400
BEGIN = datetime(2026, 1, 1)

Object = dict[str, Any]


class Killed(BaseException):
    """The operator's process ends here; nothing in it can catch that."""


@dataclass
class Life:
    """Of one operator: each call that it awaits has a moment before the deed and one after it."""

    last_moment: int | None = None
    """At which it is killed; None: never."""
    moments: int = 0
    awaited: str = ""

    def moment(self, what: str) -> None:
        if self.last_moment is not None and self.moments >= self.last_moment:
            self.awaited = self.awaited or what
            raise Killed
        self.moments += 1


@dataclass
class Agent:
    """Follows plans at once, and counts as the published curve says."""

    plan: Plan | None = None
    settled_since: float = 0.0
    tokens: int = 0
    millijoules: float = 0.0
    saturated: float = 0.0
    starts: int = 0
    followed: list[tuple[int, int, bool]] = field(default_factory=list)
    """Replicas started, replicas in rotation, and whether loaded, of each plan."""

    def second(self) -> None:
        if self.plan is not None and self.plan.load is not None:
            rate, watts = H100_OPT_1_3B[self.plan.rotation, self.plan.layout.max_num_seqs]
            self.tokens += round(rate)
            self.millijoules += watts * 1000
            self.saturated += 1

    def state(self, seconds: float) -> PackState:
        return pack_state(
            self.plan,
            clock_seconds=seconds,
            settled_since_seconds=self.settled_since,
            counters=Counters(
                sampled_at_seconds=seconds,
                output_tokens=self.tokens,
                energy_millijoules=int(self.millijoules),
                saturated_seconds=self.saturated,
                replica_starts=self.starts,
            ),
        )

    def accept(self, plan: Plan, seconds: float) -> None:
        if plan == self.plan:
            return
        if self.plan is not None and plan.generation <= self.plan.generation:
            raise AgentError("StaleGeneration", "read the pack, then plan again")
        if self.plan is None or self.plan.layout != plan.layout:
            self.starts += plan.layout.replicas
        self.plan, self.settled_since = plan, seconds
        self.followed.append((plan.layout.replicas, plan.rotation, plan.load is not None))


class World:
    """What outlives an operator. A second passes between two passes."""

    def __init__(self, spec: Object) -> None:
        self.seconds = 0.0
        self.clock_error_seconds: Callable[[float], float] = lambda _: 0.0
        """By which the operator's wall clock is wrong, as a function of the time."""
        self.objects: dict[tuple[str, str], Object] = {}
        self.agents: dict[str, Agent] = {}
        """By address."""
        self.created: Counter[str] = Counter()
        self.deleted: Counter[str] = Counter()
        self.told: Counter[str] = Counter()
        self.writes = 0
        metadata = {"name": "chat", "namespace": "default", "uid": "u1", "generation": 1}
        self._service: Object | None = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": metadata,
            "spec": spec,
        }

    @property
    def service(self) -> Object:
        assert self._service is not None
        return self._service

    def change(self, spec: Object) -> None:
        self.service["spec"] = self.service["spec"] | spec
        self.service["metadata"]["generation"] += 1

    def packs(self) -> list[Pack]:
        return [read_pack(pod) for pod in self._pods()]

    def _pods(self) -> list[Object]:
        return [child for (kind, _), child in self.objects.items() if kind == "Pod"]

    def second(self) -> None:
        self.seconds += 1
        for agent in self.agents.values():
            agent.second()
        for pod in self._pods():
            if "deletionTimestamp" in pod["metadata"]:
                del self.objects["Pod", pod["metadata"]["name"]]
                self.agents.pop(pod["status"].get("podIP", ""), None)
                continue
            address = f"pod-{pod['metadata']['uid']}"
            agent = self.agents.setdefault(address, Agent())
            pod["status"] = {
                "phase": "Running",
                "podIP": address,
                "containerStatuses": [{"started": True, "state": {"running": {}}}],
                "conditions": [{"type": "Ready", "status": str(agent.plan is not None)}],
            }

    def collect_garbage(self) -> None:
        """The service is gone, so Kubernetes ends what it owned."""
        self._service = None
        for (kind, name), child in list(self.objects.items()):
            if kind == "ConfigMap":
                continue  # profiles outlive the services that measured them
            assert child["metadata"]["ownerReferences"][0]["uid"] == "u1"
            self.remove(kind, name, child["metadata"]["uid"])

    def put(self, obj: Object) -> Object:
        """Server-side apply."""
        key = obj["kind"], obj["metadata"]["name"]
        old = self.objects.get(key)
        wanted = obj["metadata"].get("uid")
        if wanted is not None and (old is None or old["metadata"]["uid"] != wanted):
            raise KubeError(409, "Conflict", "uid mismatch")
        if old is not None and "resourceVersion" in obj["metadata"]:
            raise KubeError(409, "Conflict", "the object has been modified")
        if old is None:
            self.created["/".join(key)] += 1
            uid = f"{key[1]}-{sum(self.created.values())}"
            created = f"{BEGIN + timedelta(seconds=self.seconds):%Y-%m-%dT%H:%M:%SZ}"
            metadata = {**obj["metadata"], "uid": uid, "creationTimestamp": created}
            self.objects[key] = {**copy.deepcopy(obj), "metadata": metadata, "status": {}}
            self.writes += 1
        elif key[0] == "ConfigMap":
            old["data"] = {**old["data"], **obj["data"]}
            self.writes += 1
        elif key[0] == "Pod" and old["spec"] != obj["spec"]:
            raise KubeError(422, "Invalid", "a Pod's spec cannot be changed")
        return self.objects[key]

    def remove(self, kind: str, name: str, uid: str) -> None:
        old = self.objects.get((kind, name))
        if old is None or old["metadata"]["uid"] != uid or "deletionTimestamp" in old["metadata"]:
            return
        self.deleted[f"{kind}/{name}"] += 1
        self.writes += 1
        if kind == "Pod":
            ends = BEGIN + timedelta(seconds=self.seconds + 120)
            old["metadata"]["deletionTimestamp"] = f"{ends:%Y-%m-%dT%H:%M:%SZ}"
        else:
            del self.objects[kind, name]

    def end(self) -> Object:
        """All that is there, but for when it came."""
        status = self._service["status"] if self._service else None
        return {
            "objects": {key: _content(o) for key, o in self.objects.items()},
            "created": self.created,
            "deleted": self.deleted,
            "followed": {o["metadata"]["name"]: self._followed(o) for o in self._pods()},
            "status": _undated(status),
        }

    def _followed(self, pod: Object) -> list[tuple[int, int, bool]]:
        return self.agents[pod["status"]["podIP"]].followed


def _content(obj: Object) -> Any:
    """What an object holds; of profiles which there are, since their text is dated."""
    if obj["kind"] == "ConfigMap":
        return set(obj["data"])
    return obj["stringData"] if obj["kind"] == "Secret" else obj["spec"]


def _undated(found: Any) -> Any:
    """Without what tells when, or for how long."""
    if isinstance(found, dict):
        when = ("measuredAt", "since", "time", "lastTransitionTime", "pointsSince", "progressedAt")
        return {k: _undated(v) for k, v in found.items() if k not in when}
    if isinstance(found, list):
        return [_undated(v) for v in found]
    return found


class Operator:
    """A process: what it holds in memory ends with it."""

    def __init__(self, world: World, last_moment: int | None = None) -> None:
        self.world = world
        self.life = Life(last_moment)
        self.controller = Controller(
            _Kube(world, self.life),  # type: ignore[arg-type]
            _Agents(world, self.life),  # type: ignore[arg-type]
            Settings(worker_image="w", keys=Keys("k" * 32), rules=RULES),
            Metrics(),
            self._now,
            lambda: world.seconds,
        )

    def _now(self) -> str:
        seconds = self.world.seconds + self.world.clock_error_seconds(self.world.seconds)
        return f"{BEGIN + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"

    async def work(self) -> None:
        """Passes until nothing changes any more. Raises Killed."""
        quiet, ends = 0, self.world.seconds + MOST_SECONDS
        while quiet < QUIET_SECONDS:
            writes = self.world.writes
            await self.controller.reconcile(copy.deepcopy(self.world.service), self.world.packs())
            self.world.second()
            quiet = quiet + 1 if self.world.writes == writes else 0
            assert self.world.seconds < ends, self.world.service

    async def end_the_service(self) -> None:
        """As a loop does when it sees the deletion; then garbage collection does the same."""
        await self.controller.finalize(copy.deepcopy(self.world.service), self.world.packs())
        self.world.collect_garbage()


class _Kube:
    def __init__(self, world: World, life: Life) -> None:
        self._world = world
        self._life = life

    async def get(self, api: str, kind: str, name: str, namespace: str) -> Object:
        await _await(self._life, f"before: get {kind} {name}")
        world = self._world
        found = world.service if kind == KIND else world.objects.get((kind, name))
        await _await(self._life, f"after: get {kind} {name}")
        if found is None:
            raise KubeError(404, "NotFound", name)
        return copy.deepcopy(found)

    async def apply(
        self, obj: Object, *, subresource: str = "", force: bool = False, manager: str = ""
    ) -> Object:
        what = f"apply {obj['kind']} {obj['metadata']['name']} {subresource}".strip()
        await _await(self._life, f"before: {what}")
        if subresource:
            self._world.service["status"] = copy.deepcopy(obj["status"])
            self._world.writes += 1
            answer = obj
        else:
            answer = copy.deepcopy(self._world.put(obj))
        await _await(self._life, f"after: {what}")
        return answer

    async def metadata_of(self, obj: Object) -> Object:
        what = f"look {obj['kind']} {obj['metadata']['name']}"
        await _await(self._life, f"before: {what}")
        found = self._world.objects.get((obj["kind"], obj["metadata"]["name"]))
        await _await(self._life, f"after: {what}")
        if found is None:
            raise KubeError(404, "NotFound", what)
        return copy.deepcopy(found["metadata"])

    async def create(self, obj: Object) -> None:
        await _await(self._life, f"before: event {obj['reason']}")
        self._world.told[obj["reason"]] += 1
        self._world.writes += 1
        await _await(self._life, f"after: event {obj['reason']}")

    async def delete(
        self, api: str, kind: str, name: str, namespace: str, *, uid: str = ""
    ) -> None:
        await _await(self._life, f"before: delete {kind} {name}")
        self._world.remove(kind, name, uid)
        await _await(self._life, f"after: delete {kind} {name}")


class _Agents:
    def __init__(self, world: World, life: Life) -> None:
        self._world = world
        self._life = life

    async def state(self, address: str, tokens: Tokens) -> PackState:
        await _await(self._life, f"before: read {address}")
        state = self._world.agents[address].state(self._world.seconds)
        await _await(self._life, f"after: read {address}")
        return state

    async def put_plan(self, address: str, tokens: Tokens, plan: Plan) -> None:
        await _await(self._life, f"before: plan for {address}")
        self._world.agents[address].accept(plan, self._world.seconds)
        self._world.writes += 1
        await _await(self._life, f"after: plan for {address}")


async def _await(life: Life, what: str) -> None:
    life.moment(what)
    await asyncio.sleep(0)
