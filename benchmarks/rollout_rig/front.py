"""The Service in front of packs, as kube-proxy carries it out: whom a new connection leads to."""

from __future__ import annotations

import asyncio
import random

from slm_dev.local_node.api import ApiServer, Listing
from slm_dev.local_node.spec import Json

LAG_SECONDS = 1.0
"""From a Pod's change to that of the rules on a node: kube-proxy syncs at most once in so long
(--iptables-min-sync-period)."""


class Front:
    """Follows the Pods that a label selects. New connections go to those that were ready
    ``LAG_SECONDS`` ago, each as likely as the others; those that there are stay where they are."""

    def __init__(self, api: ApiServer, selector: str, rng: random.Random) -> None:
        self._api = api
        self._selector = selector
        self._rng = rng
        self._pods: dict[str, Json] = {}
        self.ready: tuple[str, ...] = ()
        """Addresses."""

    async def follow(self) -> None:
        """Until it is cancelled."""
        loop = asyncio.get_running_loop()
        query = {"labelSelector": self._selector}
        async for event in self._api.follow("/api/v1/namespaces/default/pods", query):
            if isinstance(event, Listing):
                self._pods = {pod["metadata"]["uid"]: pod for pod in event.items}
            elif event.gone:
                self._pods.pop(event.object["metadata"]["uid"], None)
            else:
                self._pods[event.object["metadata"]["uid"]] = event.object
            seen = tuple(p["status"]["podIP"] for p in self._pods.values() if answers(p))
            loop.call_later(LAG_SECONDS, self._lead_to, seen)

    def choose(self) -> str | None:
        """Where a new connection goes; None where it is refused."""
        return self._rng.choice(self.ready) if self.ready else None

    def _lead_to(self, addresses: tuple[str, ...]) -> None:
        self.ready = addresses


def answers(pod: Json) -> bool:
    """Whether it is an endpoint of its Service that takes connections."""
    conditions = {c["type"]: c["status"] for c in pod.get("status", {}).get("conditions", ())}
    return "deletionTimestamp" not in pod["metadata"] and conditions.get("Ready") == "True"
