"""Evicts a service's packs as ``kubectl drain`` does, within its PodDisruptionBudget."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from benchmarks.rollout_rig.front import answers
from slm_dev.local_node.api import MERGE_PATCH, ApiError, ApiServer, pod_path
from slm_dev.local_node.spec import Json

NAMESPACE = "default"
BUDGETS = f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets"
RETRY_SECONDS = 1.0


async def evict_all(api: ApiServer, service: str, selector: str) -> int:
    """Evicts every pack that there is, one after another; how often the budget said no.

    Raises:
        ApiError: the API server refuses for another reason.
    """
    path = f"/api/v1/namespaces/{NAMESPACE}/pods"
    listing = await api.get(path, {"labelSelector": selector})
    refused = 0
    for name in sorted(pod["metadata"]["name"] for pod in listing["items"]):
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": NAMESPACE},
        }
        while True:
            await keep_budget(api, service, selector)
            try:
                await api.post(pod_path(NAMESPACE, name, "eviction"), eviction)
                break
            except ApiError as error:
                if error.status != HTTPStatus.TOO_MANY_REQUESTS:
                    raise
            refused += 1
            await asyncio.sleep(RETRY_SECONDS)
    return refused


async def keep_budget(api: ApiServer, service: str, selector: str) -> None:
    """Counts what the budget allows now, as Kubernetes' disruption controller does, which a
    control plane without a controller manager lacks. Raises ApiError."""
    path = f"/api/v1/namespaces/{NAMESPACE}/pods"
    pods = (await api.get(path, {"labelSelector": selector}))["items"]
    budget = await api.get(f"{BUDGETS}/{service}")
    body = {"status": budget_status(budget, pods)}
    await api.patch(f"{BUDGETS}/{service}/status", body, MERGE_PATCH)


def budget_status(budget: Json, pods: list[Json]) -> Json:
    """Of a budget with an absolute ``minAvailable``."""
    healthy = sum(answers(pod) for pod in pods)
    desired = int(budget["spec"]["minAvailable"])
    return {
        "observedGeneration": budget["metadata"]["generation"],
        "expectedPods": len(pods),
        "currentHealthy": healthy,
        "desiredHealthy": desired,
        "disruptionsAllowed": max(0, healthy - desired),
    }
