"""The Node object that stands for this host, or for a share of it."""

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime

from slm_dev.local_node.api import MERGE_PATCH, ApiError, ApiServer
from slm_dev.local_node.spec import Json
from slm_dev.local_node.status import condition, timestamp

MOST_PODS = 110
"""The kubelet's default."""


async def register(
    api: ApiServer, name: str, extended: Mapping[str, int], most_pods: int = MOST_PODS
) -> None:
    """Makes the Node, or takes over the one that an earlier run left, and sets it ready.

    There is no heartbeat: nothing in a control plane without a controller manager looks for one.

    Raises:
        ApiError: the API server does not allow it or does not answer.
    """
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(
            platform.machine(), platform.machine()
        ),
    }
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
    try:
        await api.post("/api/v1/nodes", node)
    except ApiError as error:
        if error.status != 409:
            raise
    # The API server taints every new Node as not ready and leaves it to a controller to undo that.
    await api.patch(f"/api/v1/nodes/{name}", {"spec": {"taints": None}}, MERGE_PATCH)
    known = (await api.get(f"/api/v1/nodes/{name}")).get("status", {})
    resources: Json = {
        # What an earlier run offered and this one does not.
        **dict.fromkeys(known.get("capacity", {})),
        "cpu": str(os.cpu_count() or 1),
        "memory": str(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        "pods": str(most_pods),
        **{resource: str(count) for resource, count in extended.items()},
    }
    status = {
        "capacity": resources,
        "allocatable": resources,
        "addresses": [
            {"type": "InternalIP", "address": "127.0.0.1"},
            {"type": "Hostname", "address": name},
        ],
        "conditions": [_readiness(True, "LocalNodeReady", "the local node runs Pods as processes")],
    }
    await api.patch(f"/api/v1/nodes/{name}/status", {"status": status}, MERGE_PATCH)


async def sign_off(api: ApiServer, name: str) -> None:
    """Sets the Node not ready.

    Raises:
        ApiError: the API server does not answer.
    """
    readiness = _readiness(False, "LocalNodeStopped", "the local node has ended")
    body = {"status": {"conditions": [readiness]}}
    await api.patch(f"/api/v1/nodes/{name}/status", body, MERGE_PATCH)


def _readiness(ready: bool, reason: str, message: str) -> Json:
    now = datetime.now(UTC)
    return condition("Ready", ready, now, reason, message) | {"lastHeartbeatTime": timestamp(now)}
