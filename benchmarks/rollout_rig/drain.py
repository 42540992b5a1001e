"""Empties a node with ``kubectl drain``, within a service's PodDisruptionBudget."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from benchmarks.rollout_rig.front import answers
from slm_dev.controlplane import find_or_build
from slm_dev.local_node.api import MERGE_PATCH, ApiError, ApiServer
from slm_dev.local_node.spec import Json
from slm_dev.stack import Stack

NAMESPACE = "default"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
BUDGETS = f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets"
LOOK_SECONDS = 0.5
TIMEOUT_SECONDS = 300


async def drain(stack: Stack, api: ApiServer, node: str, service: str, selector: str) -> None:
    """Cordons a node, and evicts and waits for the end of every Pod on it.

    Raises:
        RuntimeError: kubectl failed; the text has what it wrote.
        ApiError: the API server refuses what keeps the budget.
    """
    binaries = await asyncio.to_thread(find_or_build, print)
    async with kept_budget(api, service, selector):
        process = await asyncio.create_subprocess_exec(
            binaries.kubectl,
            f"--kubeconfig={stack.kubeconfig}",
            f"--cache-dir={stack.kubeconfig.parent / 'kubectl'}",
            *("drain", node, "--ignore-daemonsets", "--delete-emptydir-data"),
            f"--timeout={TIMEOUT_SECONDS}s",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"kubectl drain {node} failed:\n{output.decode()}")


async def packs_by_node(api: ApiServer, selector: str) -> dict[str, set[str]]:
    """The UIDs of the Pods that a label selects, by the name of their node. Raises ApiError."""
    found: dict[str, set[str]] = {}
    for pod in (await api.get(PODS, {"labelSelector": selector}))["items"]:
        found.setdefault(pod["spec"].get("nodeName", ""), set()).add(pod["metadata"]["uid"])
    return found


@asynccontextmanager
async def kept_budget(api: ApiServer, service: str, selector: str) -> AsyncIterator[None]:
    """Keeps the status of the service's budget, as Kubernetes' disruption controller does, which a
    control plane without a controller manager lacks. Raises ApiError."""
    await _keep_budget(api, service, selector)

    async def keep() -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await _keep_budget(api, service, selector)

    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(keep())
        yield
        keeping.cancel()


async def _keep_budget(api: ApiServer, service: str, selector: str) -> None:
    # The budget first: an eviction after it changes its version, and the count below is void.
    budget = await api.get(f"{BUDGETS}/{service}")
    pods = (await api.get(PODS, {"labelSelector": selector}))["items"]
    version = {"resourceVersion": budget["metadata"]["resourceVersion"]}
    body = {"metadata": version, "status": budget_status(budget, pods)}
    try:
        await api.patch(f"{BUDGETS}/{service}/status", body, MERGE_PATCH)
    except ApiError as error:
        if error.status != HTTPStatus.CONFLICT:
            raise


def budget_status(budget: Json, pods: list[Json]) -> Json:
    """The change of the status of a budget with an absolute ``minAvailable``. Pods whose eviction
    was granted are no longer healthy, whatever they say, and are noted until they end."""
    staying = {p["metadata"]["name"]: p for p in pods if "deletionTimestamp" not in p["metadata"]}
    granted = (budget.get("status") or {}).get("disruptedPods") or {}
    healthy = sum(answers(pod) for name, pod in staying.items() if name not in granted)
    desired = int(budget["spec"]["minAvailable"])
    return {
        "observedGeneration": budget["metadata"]["generation"],
        "expectedPods": len(pods),
        "currentHealthy": healthy,
        "desiredHealthy": desired,
        "disruptionsAllowed": max(0, healthy - desired),
        # A merge patch removes what is null.
        "disruptedPods": {name: None for name in granted if name not in staying},
    }
