"""An operator that writes to a fake API server and asks fake agents."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client import generate_latest

from builders import pack_state
from slm_operator.api.models import SLMService
from slm_operator.cluster.agents import AgentError
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.pods import read_pack
from slm_operator.controller import Controller, Settings
from slm_operator.keys import Keys, Tokens
from slm_operator.metrics import Metrics
from slm_operator.render import children
from slm_worker.wire import PackState, Plan

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
OBJECT: dict[str, Any] = {
    "metadata": {"name": "chat", "namespace": "default", "uid": "u1", "generation": 1},
    "spec": {
        "model": {"uri": "hf://facebook/opt-1.3b"},
        "engine": {"kind": "Simulated", "maxNumSeqs": 256},
        "gpu": {"kind": "Simulated"},
    },
}


class FakeKube:
    """Records what is written; ``refuse`` decides what is answered with ``refusal``."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.statuses: list[dict[str, Any]] = []
        self.secrets: list[dict[str, str]] = []
        self.least_available: list[int] = []
        self.refuse: Callable[[str], bool] = lambda _: False
        self.refusal = KubeError(403, "Forbidden", "not allowed")
        self.owners: list[dict[str, Any]] | None = None
        """What children are answered to be owned by; None: what they were sent with."""
        self.metadata: dict[tuple[str, str], dict[str, Any]] = {}
        """Of what was applied, by kind and name."""
        self.there: dict[tuple[str, str], dict[str, Any]] = {}
        """Of what was there before."""
        self.profiles: dict[str, str] | None = None
        """What the ConfigMap of profiles holds; None: there is none."""
        self.stored: dict[str, Any] | None = OBJECT
        """The service as it is by now; None: it is gone."""

    def _record(self, what: str) -> None:
        if self.refuse(what):
            raise self.refusal
        self.done.append(what)

    async def get(self, api: str, kind: str, name: str, namespace: str) -> Any:
        self._record(f"get {kind} {name}")
        profiles = None if self.profiles is None else {"data": self.profiles}
        found = profiles if kind == "ConfigMap" else self.stored
        if found is None:
            raise KubeError(404, "NotFound", name)
        return found

    async def apply(
        self, obj: Any, *, subresource: str = "", force: bool = False, manager: str = ""
    ) -> Any:
        key = obj["kind"], obj["metadata"]["name"]
        if key in self.there and "resourceVersion" in obj["metadata"]:
            raise KubeError(409, "Conflict", "the object has been modified")
        self._record(f"apply {obj['kind']} {subresource}".strip())
        if obj["kind"] == "PodDisruptionBudget":
            self.least_available.append(obj["spec"]["minAvailable"])
        if obj["kind"] == "Secret":
            self.secrets.append(obj["stringData"])
        if subresource:
            self.statuses.append(obj["status"])
        metadata = {**obj["metadata"], "uid": f"{obj['kind']}-uid"}
        if self.owners is not None:
            metadata["ownerReferences"] = self.owners
        self.metadata[key] = metadata
        return {**obj, "metadata": metadata}

    async def merge(self, obj: Any, patch: Any) -> Any:
        self._record(f"merge {obj['kind']} {patch['metadata']['uid']}")
        there = self.there[obj["kind"], obj["metadata"]["name"]]
        there["labels"] |= patch["metadata"]["labels"]

    async def metadata_of(self, obj: Any) -> Any:
        found = (self.metadata | self.there).get((obj["kind"], obj["metadata"]["name"]))
        if found is None:
            raise KubeError(404, "NotFound", obj["metadata"]["name"])
        return found

    async def create(self, obj: Any) -> Any:
        self._record(f"event {obj['reason']}")

    async def delete(
        self, api: str, kind: str, name: str, namespace: str, *, uid: str = ""
    ) -> None:
        self._record(f"delete {kind} {name} {uid}")
        there = self.there.get((kind, name), {})
        if there.get("uid") == uid and not there.get("finalizers"):
            del self.there[kind, name]


class FakeAgents:
    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.asked_with: list[Tokens] = []
        self.addresses: set[str] = set()
        self.answer: PackState | AgentError = pack_state()
        self.refusal: AgentError | None = None

    async def state(self, address: str, tokens: Tokens) -> PackState:
        self.asked_with.append(tokens)
        self.addresses.add(address)
        if isinstance(self.answer, AgentError):
            raise self.answer
        return self.answer

    async def put_plan(self, address: str, tokens: Tokens, plan: Plan) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.plans.append(plan)


class Operator:
    def __init__(
        self, cluster_power_budget_watts: int | None = None, keys: Keys | None = None
    ) -> None:
        self.kube, self.agents, self.metrics = FakeKube(), FakeAgents(), Metrics()
        self.passed_seconds = 0
        """By all clocks, since the beginning."""
        self.controller = Controller(
            self.kube,  # type: ignore[arg-type]
            self.agents,  # type: ignore[arg-type]
            Settings(
                "w", keys or Keys("k" * 32), cluster_power_budget_watts=cluster_power_budget_watts
            ),
            self.metrics,
            lambda: (BEGIN + timedelta(seconds=self.passed_seconds)).isoformat(),
            lambda: time.monotonic() + self.passed_seconds,
        )

    async def reconcile(self, *pods: dict[str, Any], **changes: Any) -> float:
        return await self.controller.reconcile(OBJECT | changes, map(read_pack, pods))

    def exposed(self) -> str:
        return generate_latest(self.metrics.registry).decode()

    def ready(self) -> dict[str, Any]:
        found: dict[str, Any] = next(
            c for c in self.kube.statuses[-1]["conditions"] if c["type"] == "Ready"
        )
        return found


def running_pod() -> dict[str, Any]:
    service = SLMService.from_object(OBJECT)
    pod = children.pack_pod(service, 0, "w")
    pod["metadata"]["uid"] = "p0"
    pod["status"] = {
        "phase": "Running",
        "podIP": "127.0.0.9",
        "containerStatuses": [{"started": True, "state": {"running": {}}}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    return pod
