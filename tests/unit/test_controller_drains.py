"""How many packs a node's drain may take, as the PodDisruptionBudget tells it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from controller_builders import OBJECT, Operator, running_pod
from slm_operator.api.models import SLMService
from slm_operator.cluster.agents import AgentError
from slm_operator.render import children


@pytest.fixture
def operator() -> Operator:
    return Operator()


def packs_of(obj: dict[str, Any], serving: int, waiting: int) -> list[dict[str, Any]]:
    """Its packs, of which no node takes the last ones."""
    made = []
    for ordinal in range(serving + waiting):
        pod = children.pack_pod(SLMService.from_object(obj), ordinal, "w")
        pod["metadata"] |= {"uid": f"p{ordinal}", "creationTimestamp": "2026-01-01T00:00:00Z"}
        no_node = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
        pending = {"phase": "Pending", "conditions": [no_node]}
        made.append(pod | {"status": running_pod()["status"] if ordinal < serving else pending})
    return made


async def test_no_drain_waits_for_packs_that_no_node_takes(operator: Operator) -> None:
    spec = OBJECT["spec"] | {"packs": 4}
    operator.kube.stored = obj = OBJECT | {"spec": spec}
    packs = packs_of(obj, serving=2, waiting=2)
    for operator.passed_seconds in (0, 900, 901):
        await operator.reconcile(*packs, spec=spec)
    assert operator.kube.least_available == [3, 1], "of two that serve one may go"
    operator.kube.least_available.clear()
    evicted = copy.deepcopy(packs)
    evicted[0]["metadata"]["deletionTimestamp"] = "2026-01-01T00:17:00Z"
    await operator.reconcile(*evicted, spec=spec)
    await operator.reconcile(*packs[1:], spec=spec)
    assert set(operator.kube.least_available) <= {1}, "nor two while another takes its place"


async def test_a_drain_takes_no_second_pack_while_a_node_for_the_first_may_come(
    operator: Operator,
) -> None:
    spec = OBJECT["spec"] | {"packs": 2}
    operator.kube.stored = obj = OBJECT | {"spec": spec}
    waiting, evicted = packs_of(obj, serving=0, waiting=1)[0], packs_of(obj, 2, 0)[0]
    evicted["metadata"] |= {"uid": "evicted", "deletionTimestamp": "2026-01-01T00:02:00Z"}
    stays = packs_of(obj, 2, 0)[1]
    for packs in ([evicted, stays], [stays], [waiting, stays]):
        await operator.reconcile(*packs, spec=spec)
    operator.passed_seconds = 900
    await operator.reconcile(waiting, stays, spec=spec)
    assert set(operator.kube.least_available) == {1}


async def test_no_drain_waits_for_packs_that_a_quota_holds_back_for_long(
    operator: Operator,
) -> None:
    spec = OBJECT["spec"] | {"packs": 3}
    operator.kube.stored = obj = OBJECT | {"spec": spec}
    (pod,) = packs_of(obj, serving=1, waiting=0)
    operator.kube.refuse = lambda what: what == "apply Pod"
    for operator.passed_seconds in (0, 60, 890):
        await operator.reconcile(pod, spec=spec)
    assert set(operator.kube.least_available) == {2}
    operator.passed_seconds = 910
    await operator.reconcile(pod, spec=spec)
    assert operator.kube.least_available[-1] == 0
    operator.kube.refuse = lambda _: False
    for _ in range(2):
        await operator.reconcile(pod, spec=spec)
    assert operator.kube.least_available[-1] == 2


async def test_a_plan_that_an_agent_refuses_takes_no_pack_its_place(operator: Operator) -> None:
    spec = OBJECT["spec"] | {"packs": 3}
    operator.kube.stored = obj = OBJECT | {"spec": spec}
    operator.agents.refusal = AgentError("Invalid", "no such layout")
    for operator.passed_seconds in (0, 2000, 4000):
        await operator.reconcile(*packs_of(obj, serving=1, waiting=0), spec=spec)
    assert set(operator.kube.least_available) == {2}
