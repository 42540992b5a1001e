"""What goes with the packs comes back when somebody deletes or edits it, with the rights of
production."""

from __future__ import annotations

import json

import pytest

from commands import kubectl
from operator_rig import NewService, fixed, until
from slm_dev.stack import Stack
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


def uid(obj: Object | None) -> str:
    return str(obj["metadata"]["uid"]) if obj is not None else ""
