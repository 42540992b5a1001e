"""Binds Pods that have no node to one that takes them."""

import asyncio
import logging
from collections import defaultdict
from datetime import UTC, datetime

from slm_dev.local_node.api import (
    STRATEGIC_MERGE_PATCH,
    ApiError,
    ApiServer,
    Listing,
    Pauses,
    pod_path,
)
from slm_dev.local_node.scheduling import UnschedulableError, choose_node
from slm_dev.local_node.spec import Json
from slm_dev.local_node.status import condition

_SCHEDULER_NAME = "default-scheduler"

log = logging.getLogger(__name__)


class Scheduler:
    """Follows all nodes and Pods, and looks at those that wait whenever anything changes. One at a
    time: two would give the same device away.

    Its user needs to list and watch nodes and pods, create pods/binding and patch pods/status,
    which the built-in role system:kube-scheduler grants.
    """

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self._nodes: dict[str, Json] = {}
        self._pods: dict[str, Json] = {}
        # Node names of Pods that the watch has not shown to be bound yet.
        self._bound: dict[str, str] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Schedules for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow("/api/v1/nodes", self._nodes))
            group.create_task(self._follow("/api/v1/pods", self._pods))
            group.create_task(self._schedule())

    async def _follow(self, path: str, known: dict[str, Json]) -> None:
        """Keeps ``known``, by UID."""
        async for event in self._api.follow(path):
            if isinstance(event, Listing):
                known.clear()
                known.update((each["metadata"]["uid"], each) for each in event.items)
            elif event.gone:
                known.pop(event.object["metadata"]["uid"], None)
            else:
                known[event.object["metadata"]["uid"]] = event.object
            self._changed.set()

    async def _schedule(self) -> None:
        pauses = Pauses()
        while True:
            await self._changed.wait()
            self._changed.clear()
            if await self._schedule_waiting():
                pauses.reset()
            else:
                self._changed.set()
                await pauses.pause()

    async def _schedule_waiting(self) -> bool:
        """Whether everything that should be written was."""
        if not self._nodes:
            # They are not listed yet: there is at least the one that runs this scheduler.
            return True
        complete = True
        self._bound = {
            uid: name
            for uid, name in self._bound.items()
            if uid in self._pods and not self._pods[uid]["spec"].get("nodeName")
        }
        waiting = sorted(
            (pod for pod in self._pods.values() if self._waits(pod)),
            key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]),
        )
        for pod in waiting:
            try:
                await self._place(pod)
            except ApiError as error:
                # 404 and 409: the Pod has gone or changed, which the watch will tell.
                if error.status not in (404, 409):
                    log.warning("Cannot schedule %s yet: %s", pod["metadata"]["name"], error)
                    complete = False
        return complete

    async def _place(self, pod: Json) -> None:
        try:
            name = choose_node(pod, self._nodes.values(), self._placed())
        except UnschedulableError as refusal:
            await self._refuse(pod, str(refusal))
        else:
            await self._bind(pod, name)

    def _placed(self) -> dict[str, list[Json]]:
        placed: dict[str, list[Json]] = defaultdict(list)
        for pod in self._pods.values():
            if name := self._node_of(pod):
                placed[name].append(pod)
        return placed

    def _node_of(self, pod: Json) -> str:
        name: str = pod["spec"].get("nodeName") or self._bound.get(pod["metadata"]["uid"], "")
        return name

    def _waits(self, pod: Json) -> bool:
        return (
            not self._node_of(pod)
            and pod["spec"].get("schedulerName", _SCHEDULER_NAME) == _SCHEDULER_NAME
            and not pod["metadata"].get("deletionTimestamp")
        )

    async def _bind(self, pod: Json, node: str) -> None:
        metadata = pod["metadata"]
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": metadata["name"], "uid": metadata["uid"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        await self._api.post(pod_path(metadata["namespace"], metadata["name"], "binding"), body)
        # Known at once, so that the next Pod is not given the same device.
        self._bound[metadata["uid"]] = node

    async def _refuse(self, pod: Json, message: str) -> None:
        known = pod.get("status", {}).get("conditions") or []
        if any(each["type"] == "PodScheduled" and each.get("message") == message for each in known):
            return
        refusal = condition("PodScheduled", False, datetime.now(UTC), "Unschedulable", message)
        metadata = pod["metadata"]
        body = {"metadata": {"uid": metadata["uid"]}, "status": {"conditions": [refusal]}}
        path = pod_path(metadata["namespace"], metadata["name"], "status")
        await self._api.patch(path, body, STRATEGIC_MERGE_PATCH)
