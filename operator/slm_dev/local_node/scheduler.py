"""Binds Pods that have no node to the one node, if they fit."""

import contextlib
import logging
from collections.abc import Mapping
from datetime import UTC, datetime

from slm_dev.local_node.api import (
    STRATEGIC_MERGE_PATCH,
    ApiError,
    ApiServer,
    Change,
    Listing,
    Pauses,
    pod_path,
)
from slm_dev.local_node.scheduling import insufficient
from slm_dev.local_node.spec import Json
from slm_dev.local_node.status import condition

_SCHEDULER_NAME = "default-scheduler"

log = logging.getLogger(__name__)


class Scheduler:
    """Follows all Pods, and looks at those that wait whenever anything changes.

    Its user needs to list and watch pods, create pods/binding and patch pods/status, which the
    built-in role system:kube-scheduler grants.
    """

    def __init__(self, api: ApiServer, node_name: str, capacity: Mapping[str, int]) -> None:
        self._api = api
        self._node_name = node_name
        self._capacity = capacity
        self._pods: dict[str, Json] = {}

    async def run(self) -> None:
        """Schedules for ever."""
        pauses = Pauses()
        while True:
            async with contextlib.aclosing(self._api.follow("/api/v1/pods")) as events:
                async for event in events:
                    self._note(event)
                    if not await self._schedule_waiting():
                        break
            await pauses.pause()

    def _note(self, event: Listing | Change) -> None:
        match event:
            case Listing(items):
                self._pods = {pod["metadata"]["uid"]: pod for pod in items}
            case Change(pod, gone=True):
                self._pods.pop(pod["metadata"]["uid"], None)
            case Change(pod):
                self._pods[pod["metadata"]["uid"]] = pod

    async def _schedule_waiting(self) -> bool:
        """Whether everything that should be written was."""
        complete = True
        waiting = sorted(
            (pod for pod in self._pods.values() if self._waits(pod)),
            key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]),
        )
        for pod in waiting:
            placed = (
                other
                for other in self._pods.values()
                if other["spec"].get("nodeName") == self._node_name
            )
            problem = insufficient(pod, placed, self._capacity)
            try:
                if problem is None:
                    await self._bind(pod)
                else:
                    await self._refuse(pod, problem)
            except ApiError as error:
                # 404 and 409: the Pod has gone or changed, which the watch will tell.
                if error.status not in (404, 409):
                    log.warning("Cannot schedule %s yet: %s", pod["metadata"]["name"], error)
                    complete = False
        return complete

    def _waits(self, pod: Json) -> bool:
        return (
            not pod["spec"].get("nodeName")
            and pod["spec"].get("schedulerName", _SCHEDULER_NAME) == _SCHEDULER_NAME
            and not pod["metadata"].get("deletionTimestamp")
        )

    async def _bind(self, pod: Json) -> None:
        metadata = pod["metadata"]
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": metadata["name"], "uid": metadata["uid"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": self._node_name},
        }
        await self._api.post(pod_path(metadata["namespace"], metadata["name"], "binding"), body)
        # Known at once, so that the next Pod is not given the same device.
        pod["spec"]["nodeName"] = self._node_name

    async def _refuse(self, pod: Json, message: str) -> None:
        known = pod.get("status", {}).get("conditions") or []
        if any(each["type"] == "PodScheduled" and each.get("message") == message for each in known):
            return
        refusal = condition("PodScheduled", False, datetime.now(UTC), "Unschedulable", message)
        metadata = pod["metadata"]
        body = {"metadata": {"uid": metadata["uid"]}, "status": {"conditions": [refusal]}}
        path = pod_path(metadata["namespace"], metadata["name"], "status")
        await self._api.patch(path, body, STRATEGIC_MERGE_PATCH)
