"""What a pass and a service's end delete, and what they spare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from controller_builders import OBJECT, Operator, running_pod
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.pods import read_pack
from slm_operator.controller import FORMER_SECONDS
from slm_operator.render.children import INSTANCE_LABEL, MANAGED_BY_LABEL, PACK_LABEL


@pytest.fixture
def operator() -> Operator:
    return Operator()


async def test_deletion_removes_the_children_that_were_applied(operator: Operator) -> None:
    await operator.reconcile()
    operator.kube.done.clear()
    await operator.controller.finalize(OBJECT, [read_pack(running_pod())])
    assert operator.kube.done == [
        "delete Pod chat-pack-0 p0",
        "delete Secret chat-agent-token Secret-uid",
        "delete Service chat Service-uid",
        "delete Service chat-packs Service-uid",
        "delete PodDisruptionBudget chat PodDisruptionBudget-uid",
    ]


async def test_deletion_asks_once_and_waits_for_no_pod(operator: Operator) -> None:
    ending = running_pod()
    ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert await operator.controller.finalize(OBJECT, [read_pack(running_pod())])
    assert not await operator.controller.finalize(OBJECT, [read_pack(ending)])
    assert operator.kube.done == ["delete Pod chat-pack-0 p0"]


async def test_the_pack_of_a_former_service_of_the_name_goes_before_its_own_comes(
    operator: Operator,
) -> None:
    former = running_pod()
    former["metadata"]["ownerReferences"][0]["uid"] = "u0"
    await operator.reconcile(former)
    assert "delete Pod chat-pack-0 p0" in operator.kube.done
    assert "apply Pod" not in operator.kube.done
    assert operator.agents.plans == []
    await operator.reconcile()
    assert "apply Pod" in operator.kube.done


async def test_what_a_former_service_left_ends_and_keeps_only_its_names(
    operator: Operator,
) -> None:
    """The operator was away while the service was deleted and made anew."""
    await operator.reconcile()
    again = Operator()
    for key, metadata in operator.kube.metadata.items():
        if key[0] in ("Secret", "Service", "PodDisruptionBudget"):
            (owner,) = metadata["ownerReferences"]
            left = {"uid": f"former-{key[1]}", "ownerReferences": [owner | {"uid": "u0"}]}
            again.kube.there[key] = metadata | left
    again.kube.there["Service", "chat"] |= {
        "deletionTimestamp": "2026-01-01T00:00:00Z",
        "finalizers": ["service.kubernetes.io/load-balancer-cleanup"],
    }
    former = running_pod()
    former["metadata"]["ownerReferences"][0]["uid"] = "u0"

    assert await again.reconcile(former) == FORMER_SECONDS
    assert [each for each in again.kube.done if each.startswith("delete")] == [
        "delete Pod chat-pack-0 p0",
        "delete Secret chat-agent-token former-chat-agent-token",
        "delete Service chat-packs former-chat-packs",
        "delete PodDisruptionBudget chat former-chat",
    ]
    again.kube.done.clear()
    assert [await again.reconcile() for _ in range(3)] == [FORMER_SECONDS] * 3
    assert {"apply Secret", "apply PodDisruptionBudget", "apply Pod"} <= set(again.kube.done)
    assert again.ready()["reason"] == "FormerService"
    assert "the Service default/chat of the former SLMService" in again.ready()["message"]
    again.kube.there.clear()
    for _ in range(2):
        await again.reconcile(running_pod())
    assert again.ready()["status"] == "True"


async def test_a_hidden_pod_of_a_former_service_that_has_a_packs_name_is_deleted(
    operator: Operator,
) -> None:
    former = running_pod()["metadata"]
    former["ownerReferences"][0]["uid"] = "u0"
    operator.kube.there = {("Pod", "chat-pack-0"): former}
    await operator.reconcile()
    assert "delete Pod chat-pack-0 p0" in operator.kube.done
    await operator.reconcile()
    assert "apply Pod" in operator.kube.done


def no_owner(pod: dict[str, Any]) -> None:
    del pod["metadata"]["ownerReferences"]


def of_a_replica_set(pod: dict[str, Any]) -> None:
    (owner,) = pod["metadata"]["ownerReferences"]
    owner |= {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "rs"}


def without_pack_label(pod: dict[str, Any]) -> None:
    no_owner(pod)
    del pod["metadata"]["labels"][PACK_LABEL]


@pytest.mark.parametrize("change", [no_owner, of_a_replica_set, without_pack_label])
async def test_a_pod_that_only_has_the_labels_of_a_pack_gets_no_token_and_is_not_deleted(
    operator: Operator, change: Callable[[dict[str, Any]], None], caplog: pytest.LogCaptureFixture
) -> None:
    stranger = running_pod()
    stranger["metadata"] |= {"name": "chat-debug", "uid": "debug"}
    stranger["status"]["podIP"] = "127.0.0.66"
    change(stranger)
    for _ in range(3):
        await operator.reconcile(running_pod(), stranger)
    assert operator.agents.addresses == {"127.0.0.9"}
    assert operator.kube.statuses[-1]["packs"] == 1
    assert not any(done.startswith("delete") for done in operator.kube.done)
    told = [r.getMessage() for r in caplog.records if "chat-debug" in r.getMessage()]
    assert len(told) == 1, "at the first pass alone"
    assert "has the labels of a pack of chat" in told[0]
    operator.kube.done.clear()
    await operator.controller.finalize(OBJECT, [read_pack(stranger)])
    assert not any(done.startswith("delete Pod ") for done in operator.kube.done)


async def test_a_pod_of_somebody_else_that_has_a_packs_name_is_a_conflict(
    operator: Operator,
) -> None:
    stranger = running_pod()
    no_owner(stranger)
    operator.kube.there = {("Pod", "chat-pack-0"): stranger["metadata"]}
    for _ in range(2):
        await operator.reconcile(stranger)
    assert operator.ready()["reason"] == "Conflict"
    assert "the Pod default/chat-pack-0 is not this SLMService's" in operator.ready()["message"]
    assert "apply Pod" not in operator.kube.done


async def test_a_pack_that_the_watch_does_not_show_yet_is_not_in_its_own_way(
    operator: Operator,
) -> None:
    operator.kube.there = {("Pod", "chat-pack-0"): running_pod()["metadata"]}
    for _ in range(2):
        await operator.reconcile()
    assert operator.ready()["reason"] != "Conflict"


@pytest.mark.parametrize(
    ("label", "value"),
    [
        (MANAGED_BY_LABEL, None),
        (INSTANCE_LABEL, None),
        (INSTANCE_LABEL, "other"),
        (PACK_LABEL, "x"),
    ],
)
async def test_a_pack_that_somebody_hid_by_its_labels_gets_them_back(
    operator: Operator, label: str, value: str | None
) -> None:
    hidden = running_pod()["metadata"]
    as_made = dict(hidden["labels"])
    hidden["labels"].pop(label)
    if value is not None:
        hidden["labels"][label] = value
    hidden["labels"]["sick"] = "yes"
    operator.kube.there = {("Pod", "chat-pack-0"): hidden}
    for _ in range(2):
        await operator.reconcile()
    assert hidden["labels"] == as_made | {"sick": "yes"}
    assert [each for each in operator.kube.done if "Pod p0" in each] == ["merge Pod p0"], "once"


async def test_a_hidden_pack_that_ends_is_left_alone(operator: Operator) -> None:
    hidden = running_pod()["metadata"] | {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    del hidden["labels"][MANAGED_BY_LABEL]
    operator.kube.there = {("Pod", "chat-pack-0"): hidden}
    await operator.reconcile()
    assert "merge Pod p0" not in operator.kube.done


async def test_labels_that_cannot_be_put_back_are_told_of(operator: Operator) -> None:
    hidden = running_pod()["metadata"]
    del hidden["labels"][MANAGED_BY_LABEL]
    operator.kube.there = {("Pod", "chat-pack-0"): hidden}
    operator.kube.refuse = lambda what: what == "merge Pod p0"
    for _ in range(2):
        await operator.reconcile()
    assert operator.ready()["reason"] == "Forbidden"
    told = operator.ready()["message"]
    assert "the Pod default/chat-pack-0 is this SLMService's own and lacks" in told
    assert f"{MANAGED_BY_LABEL}=slm-operator" in told


async def test_the_end_of_a_service_spares_the_packs_of_its_successor(operator: Operator) -> None:
    successor = running_pod()
    successor["metadata"]["ownerReferences"][0]["uid"] = "u2"
    assert not await operator.controller.finalize(OBJECT, [read_pack(successor)])
    assert operator.kube.done == []


async def test_deletion_leaves_a_foreign_service_of_that_name(operator: Operator) -> None:
    operator.kube.refusal = KubeError(409, "Conflict", "spec.selector belongs to helm")
    operator.kube.refuse = lambda what: what == "apply Service"
    await operator.reconcile()
    operator.kube.done.clear()
    await operator.controller.finalize(OBJECT, [])
    assert operator.kube.done == ["delete Secret chat-agent-token Secret-uid"]


@pytest.mark.parametrize("owner", [{"uid": "other", "controller": True}, {"uid": "u1"}])
async def test_deletion_leaves_what_another_controls(
    operator: Operator, owner: dict[str, Any]
) -> None:
    operator.kube.owners = [owner]
    await operator.reconcile()
    operator.kube.done.clear()
    await operator.controller.finalize(OBJECT, [])
    assert operator.kube.done == []


async def test_nothing_is_kept_of_a_service_whose_objects_cannot_be_deleted() -> None:
    operator = Operator(cluster_power_budget_watts=800)
    await operator.reconcile(running_pod())
    assert 'name="chat"' in operator.exposed()
    operator.kube.refuse = lambda what: what.startswith("delete")
    with pytest.raises(KubeError):
        await operator.controller.finalize(OBJECT, [read_pack(running_pod())])
    await operator.controller.let_go(OBJECT)
    kept = (operator.controller._held, operator.controller.owned._of)
    assert kept == ({}, {})
    assert operator.controller._power is not None
    assert operator.controller._power._entries == {}
    assert 'name="chat"' not in operator.exposed()


@pytest.mark.parametrize("refuses", [False, True])
async def test_what_leads_to_the_activator_does_not_outlive_a_service_whose_objects_stay(
    refuses: bool,
) -> None:
    operator, kept_ports = Operator(), []

    async def remove(uid: str, namespace: str, only: str) -> bool:
        operator.kube.done.append(f"delete {only}")
        if refuses:
            raise KubeError(0, "Unreachable", "away")
        return True

    class Activator:
        async def forget(self, uid: str, *, keeps_port: bool) -> None:
            kept_ports.append(keeps_port)

    operator.controller.owned.remove = remove  # type: ignore[assignment, method-assign]
    operator.controller._activator = Activator()  # type: ignore[assignment]
    await operator.controller.let_go(OBJECT, orphaned=True)
    assert operator.kube.done == ["delete EndpointSlice"]
    assert kept_ports == [True], "another may have taken one from the service before"
    assert operator.controller.owned._of == {}


async def test_an_object_that_cannot_be_read_can_be_deleted(operator: Operator) -> None:
    await operator.controller.finalize(OBJECT | {"spec": {}}, [read_pack(running_pod())])
    assert operator.kube.done == ["delete Pod chat-pack-0 p0"]
