"""An agent that only takes note of plans, for what serves its HTTP API."""

from __future__ import annotations

from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.test_utils import TestClient

from slm_worker.agent import PlanRefusedError
from slm_worker.wire import (
    Counters,
    GpuHealth,
    GpuState,
    Histogram,
    Layout,
    LoadState,
    PackState,
    Plan,
    ReplicaPhase,
    ReplicaState,
    RoutedReplica,
    RouterState,
)

Client = TestClient[web.Request, web.Application]
TOKEN = "0123456789abcdef"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
PLAN = Plan(generation=1, layout=Layout(replicas=2, max_num_seqs=8), rotation=1)


def pack_state(plan: Plan | None = None) -> PackState:
    return PackState(
        agent_id="a",
        version="0",
        clock_seconds=5.0,
        gpu=GpuState(
            kind="Simulated",
            name="H",
            memory_bytes=1,
            simulated=True,
            power_watts=300,
            utilization_percent=90,
            throttle_reasons=("SwPowerCap",),
            health=GpuHealth(state="Degraded", reason="RowRemapPending", message="reset it"),
            mps="Running",
        ),
        packing=None,
        plan=plan,
        settled=True,
        settled_since_seconds=1.0,
        replicas=(
            ReplicaState(
                index=0,
                phase=ReplicaPhase.READY,
                in_rotation=True,
                max_num_seqs=8,
                kv_cache_bytes=None,
                pid=1,
                starts=1,
            ),
        ),
        router_queue=3,
        router=RouterState(
            served=9,
            rejected=2,
            replicas=(RoutedReplica(index=0, in_flight=4, served=9),),
        ),
        load=LoadState(),
        counters=Counters(
            sampled_at_seconds=5.0,
            output_tokens=700,
            energy_millijoules=2500,
            itl=Histogram(bounds_seconds=(0.1,), cumulative=(6,), count=7, sum_seconds=1.5),
        ),
        problem=None,
    )


@dataclass
class FakeAgent:
    alive: bool = True
    not_ready: str | None = None
    plan: Plan | None = None
    refusal: PlanRefusedError | None = None
    accepted: list[Plan] = field(default_factory=list)
    attended: int = 0

    def attend(self) -> None:
        self.attended += 1

    def state(self) -> PackState:
        return pack_state(self.plan)

    def accept(self, plan: Plan) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.accepted.append(plan)
        self.plan = plan
