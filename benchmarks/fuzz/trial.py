"""What becomes of one object: the API server's answer, and the operator's own reading of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

from slm_operator.api.models import SLMService
from slm_operator.cluster.connection import KubeError, Request
from slm_operator.cluster.kube import Kube, Object, path
from slm_operator.decide.decision import decide
from slm_operator.decide.snapshot import Pack, Snapshot
from slm_operator.pareto.window import WindowRules
from slm_operator.render import children
from slm_worker.wire import Counters, GpuState, LoadState, Packing, PackState

Outcome = Literal["refused", "accepted", "said", "fault"]
"""Said: the object is accepted, and refers to what is not there, which a condition tells."""

TRY_OUT = (("dryRun", "All"), ("fieldValidation", "Strict"))
NAMES_A_FIELD = re.compile(
    r"\b(spec|metadata)(\.[A-Za-z]+|\[|: |\b)|unknown field \"|Go struct field [A-Za-z]+\."
)
NOT_THERE = re.compile('RuntimeClass ".*" not found|no PriorityClass with name .* was found')
NOW = "2026-01-01T00:00:00Z"
RULES = WindowRules(min_seconds=5, max_seconds=10, warmup_seconds=1)
CONCURRENT = 16


class DryRun(Kube):
    """Creates that are checked whole and never stored."""

    async def try_out(self, obj: Object, namespace: str) -> Object:
        where = path(obj["apiVersion"], obj["kind"], namespace)
        return await self._connection.call(Request("POST", where, body=obj, query=TRY_OUT))


@dataclass(frozen=True)
class Result:
    obj: Any
    outcome: Outcome
    message: str = ""
    """The refusal, or the fault."""


async def run(kube: DryRun, objects: Sequence[Any], namespace: str) -> list[Result]:
    """The result of each, in order."""
    gate = asyncio.Semaphore(CONCURRENT)

    async def one(obj: Any) -> Result:
        async with gate:
            return await try_one(kube, obj, namespace)

    return list(await asyncio.gather(*(one(obj) for obj in objects)))


async def try_one(kube: DryRun, obj: Any, namespace: str) -> Result:
    """A fault: a refusal that names no field, or an object that is accepted and that the operator
    cannot read, decide on or render, or whose Pod the API server refuses."""
    try:
        stored = await kube.try_out(obj, namespace)
    except KubeError as error:
        if error.status not in (400, 422) or not NAMES_A_FIELD.search(error.message):
            return Result(obj, "fault", f"refused without a field: {error}")
        return Result(obj, "refused", error.message)
    try:
        pods = digest(stored)
    except Exception as error:  # whatever it raises, the operator would meet it
        return Result(obj, "fault", f"accepted, and then {error!r}")
    for pod in pods:
        try:
            await kube.try_out(pod, namespace)
        except KubeError as error:
            if error.status == HTTPStatus.FORBIDDEN and NOT_THERE.search(error.message):
                return Result(obj, "said", error.message)
            return Result(obj, "fault", f"accepted, and its {pod['kind']} refused: {error}")
    return Result(obj, "accepted")


def digest(stored: Object) -> list[Object]:
    """What a pass over the object does, without a pack and with one. The children it asks for."""
    service = SLMService.from_object(stored)
    for packs in ((), (_pack(None),), (_pack(_state(service)),)):
        template = children.template_hash(service, "worker")
        decision = decide(Snapshot(service, NOW, packs, worker_image="worker"), RULES, template)
        decision.status.to_object()
    return [
        children.token_secret(service, "token"),
        children.front_service(service),
        children.pack_pod(service, 0, "worker"),
    ]


def _pack(state: PackState | None) -> Pack:
    return Pack(
        ordinal=0,
        name="pack-0",
        uid="p0",
        address="127.0.0.1",
        template_hash="t",
        ready=state is not None,
        terminating=False,
        agent=state,
    )


def _state(service: SLMService) -> PackState:
    kind = service.spec.gpu.kind
    return PackState(
        agent_id="a",
        version="0",
        clock_seconds=100.0,
        gpu=GpuState(kind=kind, name=kind, memory_bytes=64 << 30, simulated=False, mps="NotNeeded"),
        packing=Packing(
            max_replicas=4, weights_bytes=1, kv_bytes_per_token=1, message="four of them"
        ),
        plan=None,
        settled=False,
        settled_since_seconds=None,
        replicas=(),
        router_queue=0,
        load=LoadState(),
        counters=Counters(sampled_at_seconds=100.0),
        problem=None,
    )
