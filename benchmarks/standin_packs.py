"""Stand-ins for packs: many agents in one task, so that an operator can be measured by itself.

No replica runs here. A Pod that the operator created is given a loopback address and marked as
running and ready, and behind that address the agent's API answers as a pack that follows its plan
at once and serves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from ipaddress import IPv4Address
from typing import Any

from aiohttp import web
from kubernetes import client

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
ADOPT_SECONDS = 0.5
_BOUNDS_SECONDS = tuple(0.001 * 2**power for power in range(22))


class StandInPacks:
    """Plays the packs of all services of one control plane; ``polls`` counts reads of a state."""

    def __init__(self, core: client.CoreV1Api, packs: int) -> None:
        self._core = core
        self._free = [str(FIRST_ADDRESS + number) for number in range(packs)]
        self._plans: dict[str, Plan] = {}
        self.polls = 0

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
        while self._free:
            pods: Any = await asyncio.to_thread(self._core.list_pod_for_all_namespaces)
            for pod in pods.items:
                if not pod.status.pod_ip:
                    await asyncio.to_thread(
                        self._core.patch_namespaced_pod_status,
                        pod.metadata.name,
                        pod.metadata.namespace,
                        {"status": _running(self._free.pop())},
                    )
            await asyncio.sleep(ADOPT_SECONDS)

    async def _get_pack(self, request: web.Request) -> web.Response:
        self.polls += 1
        return self._state(_address(request))

    async def _put_plan(self, request: web.Request) -> web.Response:
        address = _address(request)
        self._plans[address] = Plan.model_validate_json(await request.read())
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
