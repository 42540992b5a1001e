"""Packs come and go with the service, and an operator that is away is not missed."""

from __future__ import annotations

from typing import Any

import pytest

from commands import kubectl
from operator_rig import PASSES, NewService, Service, counted, engine, fixed, until
from slm_dev.stack import Stack
from slm_operator.api.crd import crd
from slm_operator.api.models import API_VERSION, KIND, SLMService
from slm_operator.cluster.connection import KubeError

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_fixed_count_serves_without_a_search(new_service: NewService) -> None:
    service = await new_service(fixed(2))
    found = await service.serves(2)
    async with service.users() as users:
        await users.served(5)
    assert users.failed == 0, users.failures
    assert found.status.calibration is not None and found.status.calibration.phase == "Fixed"
    assert found.status.frontier == () and found.status.history == ()
    await service.condition("Calibrated", "True", "FixedReplicas", "fixes 2 replicas")
    await service.condition("ScalingActive", "False", "FixedReplicas")
    state = await service.agent()
    assert state.load.sent == 0 and state.plan is not None and state.plan.load is None

    await service.apply(replicasPerPack=1)
    await service.serves(1)


async def test_packs_follow_the_scale_subresource(
    operator_stack: Stack, new_service: NewService
) -> None:
    service = await new_service(fixed(1))
    await service.serves(1)
    first = (await service.pod())["metadata"]["uid"]
    before = await owners(operator_stack, service)
    async with service.users() as users:
        await kubectl(operator_stack, "scale", "slm", service.name, "--replicas=2")
        found = await service.serves(2)
        assert (found.spec.packs, found.status.packs, found.status.ready_packs) == (2, 2, 2)
        assert (await service.agent(1)).agent_id != (await service.agent(0)).agent_id

        # As a HorizontalPodAutoscaler or KEDA writes it.
        await kubectl(
            operator_stack,
            *("patch", "slm", service.name, "--subresource=scale", "--field-manager=autoscaler"),
            *("--type=merge", """--patch={"spec":{"replicas":1}}"""),
        )
        await service.serves(1)
        await until("the second pack is gone", lambda: only(service, f"{service.name}-pack-0"))
        await users.served(2)
    assert users.failed == 0, users.failures
    assert (await service.pod())["metadata"]["uid"] == first
    scaled = await service.now()
    assert (scaled.generation, scaled.spec.packs) == (3, 1), "two writes, both of the scalers"
    assert await owners(operator_stack, service) == before

    # A manifest that says nothing of packs leaves them to whoever scales.
    await kubectl(operator_stack, "scale", "slm", service.name, "--replicas=2")
    await service.apply(**engine(env=[{"name": "HF_HUB_OFFLINE", "value": "1"}]))
    assert (await service.now()).spec.packs == 2


@pytest.mark.parametrize(
    ("what", "allowed"),
    [
        (("patch", "slmservices"), False),
        (("update", "slmservices"), False),
        (("patch", "slmservices", "--subresource=scale"), False),
        (("patch", "slmservices", "--subresource=status"), True),
    ],
)
async def test_the_operator_may_write_the_status_and_nothing_else(
    operator_stack: Stack, what: tuple[str, ...], allowed: bool
) -> None:
    answer = await kubectl(
        operator_stack, "auth", "can-i", *what, "--as=slm-operator", refused=not allowed
    )
    assert answer.strip() == ("yes" if allowed else "no")


async def owners(stack: Stack, service: Service) -> list[Any]:
    """Who wrote which field of the spec, by the API server's account. It keeps none of what is
    written through the scale subresource of a custom resource."""
    obj = await stack.kube.get(API_VERSION, KIND, service.name, "default")
    return [
        (entry["manager"], entry["time"], fields)
        for entry in obj["metadata"]["managedFields"]
        if (fields := entry["fieldsV1"].get("f:spec"))
    ]


async def settled(service: Service) -> SLMService:
    """Serving, with nothing more to be said: the first sample comes after the first answer."""
    await service.serves()
    await service.condition("MetricsAvailable", "True", "Measured")
    return await service.now()


async def only(service: Service, pod: str) -> bool:
    return await service.pods() == [pod]


async def test_a_change_of_the_template_replaces_the_pack(new_service: NewService) -> None:
    service = await new_service(fixed(1))
    await service.serves()
    await service.apply(**engine(env=[{"name": "HF_HUB_OFFLINE", "value": "1"}]))
    await until("the pack is replaced", lambda: only(service, f"{service.name}-pack-1"))
    await service.serves()


async def test_deletion_leaves_nothing(operator_stack: Stack, new_service: NewService) -> None:
    service = await new_service(fixed(2))
    await service.serves(2)
    processes = await service.pack_processes()
    assert len(processes) >= 5, "agent, router, device and two engines"
    async with service.users():
        await service.delete()
        await service.gone()
    for kind in ("Service", "Secret"):
        names = {
            one["metadata"]["name"] for one in await operator_stack.kube.list("v1", kind, "default")
        }
        assert not {name for name in names if name.startswith(service.name)}

    async def ended() -> bool:
        return not any(one.is_running() for one in processes)

    await until("every process has ended", ended)


async def test_an_operator_that_starts_again_changes_nothing(
    operator_stack: Stack, new_service: NewService
) -> None:
    service = await new_service(fixed(1))
    before = await settled(service)
    agent = await service.agent()
    async with service.users() as users:
        await operator_stack.operator.stop()
        await users.served(5)
        await operator_stack.start_operator()
        await until("a pass", lambda: counted(operator_stack, PASSES))
    assert users.failed == 0, users.failures
    assert (await service.now()).status == before.status
    after = await service.agent()
    assert (after.agent_id, after.plan) == (agent.agent_id, agent.plan)
    assert [one.pid for one in after.replicas] == [one.pid for one in agent.replicas]


async def test_what_was_asked_while_the_operator_was_away_is_done_when_it_is_back(
    operator_stack: Stack, new_service: NewService
) -> None:
    service = await new_service(fixed(1))
    before = await settled(service)
    agent = await service.agent()
    await operator_stack.operator.stop()
    try:
        await service.apply(replicasPerPack=2)
        assert (await service.now()).status == before.status
    finally:
        await operator_stack.start_operator()
    found = await service.serves(2)
    assert found.status.observed_generation == before.generation + 1
    assert (await service.agent()).agent_id == agent.agent_id


async def test_an_uninstall_in_the_wrong_order_hangs_nowhere_and_leaves_nothing_in_the_way(
    operator_stack: Stack, new_service: NewService
) -> None:
    service = await new_service(fixed(1))
    await service.serves()
    before = (await service.pod())["metadata"]["uid"]
    await operator_stack.operator.stop()
    await operator_stack.kube.delete(
        "apiextensions.k8s.io/v1", "CustomResourceDefinition", crd()["metadata"]["name"]
    )

    async def unknown() -> bool:
        try:
            await operator_stack.kube.list(API_VERSION, KIND)
        except KubeError as error:
            return error.status == 404
        return False

    await until("no service holds the resource back", unknown, 150)
    await operator_stack.start_operator()
    await operator_stack.kube.apply(crd())
    # No controller manager runs here, whose garbage collection would do this.
    for kind, name in (("Service", service.name), ("Secret", f"{service.name}-agent-token")):
        await operator_stack.kube.delete("v1", kind, name, "default")

    async def applied() -> bool:
        try:
            await service.apply()
        except KubeError as error:
            assert error.status in (404, 429), error
            return False
        return True

    await until("the resource is known again", applied)
    await service.serves()
    assert (await service.pod())["metadata"]["uid"] != before
