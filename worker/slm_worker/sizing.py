"""PURE: what the plan's layout means on this device: replica settings, and what would fit."""

from __future__ import annotations

from fractions import Fraction

from slm_worker.gpu.base import DeviceIdentity, MpsStatus
from slm_worker.planning.footprint import ModelFootprint
from slm_worker.planning.packing import LayoutError, max_replicas, share
from slm_worker.planning.remedies import remedies
from slm_worker.replicas.planner import Settings, Target
from slm_worker.wire import MpsFallback, Packing, Plan


def packing_of(
    footprint: ModelFootprint | None,
    identity: DeviceIdentity,
    mps: MpsStatus,
    fallback: MpsFallback = "OneReplica",
    *,
    reserve_bytes: int | None = None,
    plan: Plan | None = None,
    settings: Settings | None = None,
) -> Packing:
    """How many replicas of the plan's batch may share the device. Where processes would only take
    turns on it, one, unless ``fallback`` allows them to.

    ``settings`` are those of the plan's layout where it is in place: what became known since
    changes the sum, not what its replicas were given.
    """
    packing = max_replicas(
        footprint,
        identity,
        reserve_bytes=reserve_bytes,
        layout=plan.layout if plan else None,
        load=plan.load if plan else None,
        kv_cache_bytes=settings.kv_cache_bytes if settings else None,
    )
    if mps.state != "Unavailable" or packing.max_replicas <= 1:
        return packing
    if fallback == "TimeSlicing":
        return packing.model_copy(
            update={
                "message": f"Replicas take turns on the GPU, for lack of MPS: {mps.message} "
                f"{packing.message}"
            }
        )
    return packing.model_copy(
        update={
            "max_replicas": 1,
            "message": f"Only one replica, for lack of MPS: {mps.message} {packing.message}",
        }
    )


def check_fits(plan: Plan, packing: Packing, identity: DeviceIdentity) -> None:
    """Raises LayoutError, with what would make the plan's layout fit."""
    layout = plan.layout
    if layout.replicas > packing.max_replicas:
        raise LayoutError(layout, packing, remedies(layout.replicas, packing, identity))


def target_of(
    plan: Plan,
    footprint: ModelFootprint | None,
    identity: DeviceIdentity,
    mps: MpsStatus,
    fallback: MpsFallback = "OneReplica",
    *,
    reserve_bytes: int | None = None,
) -> Target:
    """Raises LayoutError."""
    packing = packing_of(footprint, identity, mps, fallback, reserve_bytes=reserve_bytes, plan=plan)
    check_fits(plan, packing, identity)
    memory = share(plan.layout, footprint, identity, reserve_bytes)
    settings = Settings(
        max_num_seqs=plan.layout.max_num_seqs,
        kv_cache_bytes=memory.kv_cache_bytes,
        gpu_memory_utilization=memory.gpu_memory_utilization,
        memory_share=Fraction(1, plan.layout.replicas),
    )
    return Target(plan.layout.replicas, plan.rotation, settings)
