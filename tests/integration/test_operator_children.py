"""What goes with the packs comes back when somebody deletes or edits it, with the rights of
production."""

from __future__ import annotations

import json
from typing import Any

import pytest

from commands import kubectl
from operator_rig import NewService, Service, fixed, until
from slm_dev.stack import Stack
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Object, get_or_none
from slm_operator.render.children import MANAGED_BY, MANAGED_BY_LABEL
from slm_worker.wire import ROUTER_PORT

pytestmark = pytest.mark.asyncio(loop_scope="session")

BACK_SECONDS = 30.0
KINDS = {"service": ("v1", "Service"), "pdb": ("policy/v1", "PodDisruptionBudget")}


async def test_a_front_service_and_a_budget_that_somebody_deletes_or_edits_come_back(
    operator_stack: Stack, new_service: NewService
) -> None:
    service = await new_service(fixed(1))
    await service.serves()
    await service.condition("MetricsAvailable", "True", "Measured")
    name = service.name

    async def found(kind: str) -> Object | None:
        return await get_or_none(operator_stack.kube, *KINDS[kind], name, "default")

    before = {kind: await found(kind) for kind in KINDS}
    await kubectl(operator_stack, "delete", "service,pdb", name, "--namespace=default")

    async def made_again() -> bool:
        now = {kind: await found(kind) for kind in KINDS}
        return all(
            obj is not None and before[kind] is not None and uid(obj) != uid(before[kind])
            for kind, obj in now.items()
        )

    await until("both are there again", made_again, BACK_SECONDS)

    edits = {
        "service": {"ports": [{"name": "http", "port": 80, "targetPort": 1}]},
        "pdb": {"minAvailable": 7},
    }
    for kind, spec in edits.items():
        patch = json.dumps({"spec": spec})
        await kubectl(
            operator_stack, "patch", kind, name, "--namespace=default", "--type=merge", "-p", patch
        )

    async def as_before() -> bool:
        front, budget = await found("service"), await found("pdb")
        assert front is not None and budget is not None
        target = front["spec"]["ports"][0]["targetPort"]
        return (target, budget["spec"]["minAvailable"]) == (ROUTER_PORT, 0)

    await until("both are as before", as_before, BACK_SECONDS)

    # The watch goes by this label, and applying it is a conflict now.
    kept = {kind: uid(await found(kind)) for kind in KINDS}
    label = f"{MANAGED_BY_LABEL}=somebody"
    await kubectl(
        operator_stack, "label", "service,pdb", name, "--namespace=default", "--overwrite", label
    )

    async def labelled() -> bool:
        now = [await found(kind) for kind in KINDS]
        return all(
            obj is not None and obj["metadata"]["labels"][MANAGED_BY_LABEL] == MANAGED_BY
            for obj in now
        )

    await until("both are the operator's again", labelled, BACK_SECONDS)
    assert kept == {kind: uid(await found(kind)) for kind in KINDS}
    ready = (await service.now()).status.condition("Ready")
    assert ready is not None and ready.reason == "Serving"


SECRET = "v1", "Secret"
NEIGHBOURS: dict[str, dict[str, Any]] = {
    "Service": {"spec": {"ports": [{"name": "db", "port": 5432}]}},
    "Secret": {"stringData": {"password": "mine"}},
}
"""What somebody else set: no field that the operator sets to another value."""


@pytest.mark.parametrize(("kind", "suffix"), [("Service", ""), ("Secret", "-agent-token")])
async def test_an_object_of_somebody_else_is_neither_taken_over_nor_deleted(
    operator_stack: Stack, kind: str, suffix: str
) -> None:
    kube = operator_stack.kube
    service = Service(operator_stack, f"taken{kind.lower()}", fixed(1))
    name = service.name + suffix
    metadata = {"name": name, "namespace": "default"}
    foreign = {"apiVersion": "v1", "kind": kind, "metadata": metadata, **NEIGHBOURS[kind]}
    await kube.apply(foreign, manager="neighbour")
    before = await kube.get("v1", kind, name, "default")

    await service.apply()
    said = await service.condition("Ready", "False", "Conflict")
    assert f"the {kind} default/{name} is not this SLMService's but nobody's" in said.message
    assert await kube.get("v1", kind, name, "default") == before
    await service.delete()
    await service.gone()
    await operator_stack.operator.stop()
    await operator_stack.start_operator()
    assert await kube.get("v1", kind, name, "default") == before
    await kube.delete("v1", kind, name, "default")


async def test_an_operator_that_starts_again_goes_on_with_its_own(
    operator_stack: Stack, new_service: NewService
) -> None:
    service = await new_service(fixed(1))
    await service.serves()
    kinds = {**KINDS, "secret": SECRET}

    async def found(kind: str) -> Object | None:
        name = service.name + ("-agent-token" if kind == "secret" else "")
        return await get_or_none(operator_stack.kube, *kinds[kind], name, "default")

    before = {kind: await found(kind) for kind in kinds}
    await operator_stack.operator.stop()
    await operator_stack.start_operator()
    # It is applied at the first pass after the start, and a changed one is written over.
    await service.apply(packs=2)
    await service.serves(2)
    after = {kind: await found(kind) for kind in kinds}
    assert {k: uid(o) for k, o in after.items()} == {k: uid(o) for k, o in before.items()}
    assert after["secret"] == before["secret"]
    budget = after["pdb"]
    assert budget is not None and budget["spec"]["minAvailable"] == 1
    managers = budget["metadata"]["managedFields"]
    assert [m["operation"] for m in managers if m["manager"] == "slm-operator"] == ["Apply"]


async def test_no_service_is_named_like_that_of_the_api_server(operator_stack: Stack) -> None:
    with pytest.raises(KubeError, match=r"metadata\.name is kubernetes, as is"):
        await Service(operator_stack, "kubernetes", fixed(1)).apply()


def uid(obj: Object | None) -> str:
    return str(obj["metadata"]["uid"]) if obj is not None else ""
