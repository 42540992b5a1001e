"""Builders: the shortest way to say what a test is about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from slm_operator.api.models import SLMService
from slm_operator.api.status import SLMServiceStatus
from slm_operator.decide.snapshot import Pack
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.window import Sample
from slm_worker.wire import (
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

H100_OPT_1_3B = {
    # (replicas, max_num_seqs): (output tokens/s, W), the published measurements
    (1, 256): (7886.7, 335.1),
    (2, 256): (10641.9, 443.1),
    (3, 256): (10660.0, 457.0),  # between two and four
    (4, 256): (10678.7, 471.0),
    (1, 512): (8127.6, 340.5),
}


def point(
    replicas: int,
    tokens_per_second: float,
    power_watts: float | None = None,
    *,
    layout: int | None = None,
    max_num_seqs: int = 256,
    confidence: float = 0.0,
    measured_at: str = "2026-01-01T00:00:00Z",
) -> OperatingPoint:
    return OperatingPoint(
        probe=Probe(layout or replicas, replicas, max_num_seqs),
        output_tokens_per_second=tokens_per_second,
        confidence_tokens_per_second=confidence,
        power_watts=power_watts,
        ttft_p95_seconds=0.35,
        itl_p95_seconds=0.037,
        window_seconds=30.0,
        saturated_fraction=1.0,
        measured_at=measured_at,
        simulated=True,
    )


def h100(probe: Probe) -> OperatingPoint:
    """The published measurement of a probe, whatever layout it runs in."""
    tokens_per_second, watts = H100_OPT_1_3B[probe.replicas, probe.max_num_seqs]
    return point(
        probe.replicas,
        tokens_per_second,
        watts,
        layout=probe.layout_replicas,
        max_num_seqs=probe.max_num_seqs,
        confidence=tokens_per_second * 0.002,
    )


def steady(
    seconds: int,
    tokens_per_second: float = 1000.0,
    *,
    start_seconds: float = 100.0,
    watts: float | None = 400.0,
    saturated: bool = True,
    agent_id: str = "a",
    settled_since_seconds: float = 0.0,
) -> list[Sample]:
    """Samples of a pack that serves evenly, one a second."""

    def samples() -> Iterator[Sample]:
        for second in range(seconds + 1):
            tokens = int(tokens_per_second * second)
            yield Sample(
                agent_id=agent_id,
                settled_since_seconds=settled_since_seconds,
                counters=Counters(
                    sampled_at_seconds=start_seconds + second,
                    output_tokens=tokens,
                    energy_millijoules=None if watts is None else int(watts * 1000 * second),
                    saturated_seconds=float(second) if saturated else 0.0,
                    itl=Histogram(
                        bounds_seconds=(0.025, 0.05),
                        cumulative=(0, tokens),
                        count=tokens,
                        sum_seconds=tokens * 0.04,
                    ),
                ),
            )

    return list(samples())


def service(
    spec: dict[str, Any] | None = None, status: SLMServiceStatus | None = None, **metadata: Any
) -> SLMService:
    """The demo's service; ``spec`` replaces whole blocks of it."""
    obj = {
        "metadata": {"name": "chat", "namespace": "default", "uid": "u1", "generation": 1}
        | metadata,
        "spec": {
            "model": {"uri": "hf://facebook/opt-1.3b"},
            "engine": {"kind": "Simulated", "maxNumSeqs": 256},
            "gpu": {"kind": "Simulated"},
            "autoscaling": {"maxReplicasPerPack": 4},
        }
        | (spec or {}),
    }
    found = SLMService.from_object(obj)
    return found.model_copy(update={"status": status}) if status else found


def pack_state(
    plan: Plan | None = None,
    *,
    clock_seconds: float = 100.0,
    counters: Counters | None = None,
    max_replicas: int = 8,
    **changes: Any,
) -> PackState:
    """A settled pack that runs ``plan``."""
    replicas = (
        ()
        if plan is None
        else tuple(
            ReplicaState(
                index=i,
                phase=ReplicaPhase.READY,
                in_rotation=i < plan.rotation,
                max_num_seqs=plan.layout.max_num_seqs,
                kv_cache_bytes=None,
                pid=1000 + i,
                starts=1,
            )
            for i in range(plan.layout.replicas)
        )
    )
    values: dict[str, Any] = {
        "agent_id": "a",
        "version": "0",
        "clock_seconds": clock_seconds,
        "gpu": GpuState(
            kind="Simulated",
            name="Simulated H100",
            memory_bytes=64 << 30,
            simulated=True,
            mps="NotNeeded",
        ),
        "packing": Packing(
            max_replicas=max_replicas, weights_bytes=1, kv_bytes_per_token=1, message="the sum"
        ),
        "plan": plan,
        "settled": plan is not None,
        "settled_since_seconds": 0.0 if plan else None,
        "replicas": replicas,
        "router_queue": 0,
        "load": LoadState(),
        "counters": counters,
        "problem": None,
    }
    return PackState(**(values | changes))


def pack(state: PackState | None = None, ordinal: int = 0, **changes: Any) -> Pack:
    values: dict[str, Any] = {
        "ordinal": ordinal,
        "name": f"chat-pack-{ordinal}",
        "uid": f"p{ordinal}",
        "address": "127.0.0.9",
        "template_hash": "t",
        "ready": state is not None,
        "terminating": False,
        "agent": state,
    }
    return Pack(**(values | changes))
