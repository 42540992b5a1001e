"""Stand-ins for packs: many agents in one process, so that an operator can be measured by itself.

No replica runs here. A Pod that the operator created is given a loopback address and marked as
running and ready, and behind that address the agent's API answers as a pack that follows its plan
at once and serves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from aiohttp import web

from slm_dev.local_node.api import STRATEGIC_MERGE_PATCH, ApiServer, Listing, pod_path
from slm_dev.local_node.spec import Json
from slm_worker.wire import (
    AGENT_PORT,
    Counters,
    GpuState,
    Histogram,
    LoadState,
    Packing,
    PackState,
    Plan,
    ReplicaPhase,
    ReplicaState,
)

FIRST_ADDRESS = IPv4Address("127.65.0.1")
WRITES_AT_A_TIME = 8
_BOUNDS_SECONDS = tuple(0.001 * 2**power for power in range(22))


@dataclass(frozen=True)
class Arrival:
    """A plan that reached an agent."""

    pod: str
    plan: Plan
    at_seconds: float
    """By time.monotonic()."""


class StandInPacks:
    """Plays the packs of all services of one control plane."""

    def __init__(self, api: ApiServer, packs: int) -> None:
        self._api = api
        self._free = [str(FIRST_ADDRESS + number) for number in reversed(range(packs))]
        self._turns = asyncio.Semaphore(WRITES_AT_A_TIME)
        self._pods: dict[str, str] = {}
        """Names, by address."""
        self._plans: dict[str, Plan] = {}
        self.polls: Counter[str] = Counter()
        """Reads of a pack's state, by address."""
        self.arrivals: list[Arrival] = []

    @contextlib.asynccontextmanager
    async def playing(self) -> AsyncIterator[None]:
        """Raises OSError when the agents' addresses are taken."""
        app = web.Application()
        app.add_routes(
            [web.get("/v1/pack", self._get_pack), web.put("/v1/pack/plan", self._put_plan)]
        )
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        for address in self._free:
            await web.TCPSite(runner, address, AGENT_PORT).start()
        adopting = asyncio.create_task(self._adopt_pods())
        try:
            yield
        finally:
            adopting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await adopting
            await runner.cleanup()

    async def _adopt_pods(self) -> None:
        adopted = set()
        async with asyncio.TaskGroup() as patching:
            async for news in self._api.follow("/api/v1/pods"):
                for pod in news.items if isinstance(news, Listing) else [news.object]:
                    uid = pod["metadata"]["uid"]
                    if uid not in adopted and not pod["status"].get("podIP"):
                        adopted.add(uid)
                        patching.create_task(self._adopt(pod, self._free.pop()))

    async def _adopt(self, pod: Json, address: str) -> None:
        metadata = pod["metadata"]
        self._pods[address] = metadata["name"]
        path = pod_path(metadata["namespace"], metadata["name"], "status")
        async with self._turns:
            await self._api.patch(path, {"status": _running(address)}, STRATEGIC_MERGE_PATCH)

    async def _get_pack(self, request: web.Request) -> web.Response:
        address = _address(request)
        self.polls[address] += 1
        return self._state(address)

    async def _put_plan(self, request: web.Request) -> web.Response:
        address = _address(request)
        plan = Plan.model_validate_json(await request.read())
        self._plans[address] = plan
        self.arrivals.append(Arrival(self._pods[address], plan, time.monotonic()))
        return self._state(address)

    def _state(self, address: str) -> web.Response:
        state = settled_state(address, self._plans.get(address), time.monotonic())
        return web.Response(text=state.model_dump_json(), content_type="application/json")


def _replicas(plan: Plan) -> tuple[ReplicaState, ...]:
    return tuple(
        ReplicaState(
            index=index,
            phase=ReplicaPhase.READY,
            in_rotation=index < plan.rotation,
            max_num_seqs=plan.layout.max_num_seqs,
            kv_cache_bytes=2**33,
            pid=None,
            starts=1,
            start_seconds=1.0,
            running=0,
            waiting=0,
        )
        for index in range(plan.layout.replicas)
    )


def settled_state(agent_id: str, plan: Plan | None, now_seconds: float) -> PackState:
    """A pack that is what ``plan`` wants; its counters stand still, since nothing is served."""
    latencies = Histogram(
        bounds_seconds=_BOUNDS_SECONDS, cumulative=(0,) * len(_BOUNDS_SECONDS), count=0
    )
    return PackState(
        agent_id=agent_id,
        version="stand-in",
        clock_seconds=now_seconds,
        gpu=GpuState(
            kind="Simulated",
            name="stand-in",
            memory_bytes=80 * 2**30,
            simulated=True,
            power_watts=100.0,
            mps="NotNeeded",
        ),
        packing=Packing(
            max_replicas=8, weights_bytes=2**31, kv_bytes_per_token=2**17, message="all fit"
        ),
        plan=plan,
        settled=plan is not None,
        settled_since_seconds=None if plan is None else 0.0,
        replicas=_replicas(plan) if plan else (),
        router_queue=0,
        load=LoadState(),
        counters=Counters(
            sampled_at_seconds=now_seconds, energy_millijoules=0, ttft=latencies, itl=latencies
        ),
        problem=None,
    )


def _address(request: web.Request) -> str:
    assert request.transport is not None
    address: str = request.transport.get_extra_info("sockname")[0]
    return address


def _running(address: str) -> dict[str, Any]:
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [
            {"type": "PodScheduled", "status": "True"},
            {"type": "Ready", "status": "True"},
        ],
        "containerStatuses": [
            {
                "name": "pack",
                "ready": True,
                "started": True,
                "restartCount": 0,
                "image": "stand-in",
                "imageID": "",
                "state": {"running": {}},
            }
        ],
    }
