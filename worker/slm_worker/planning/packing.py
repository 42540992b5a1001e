"""PURE: which layouts fit on a device, and each replica's share of its memory.

Every replica holds the weights, a fixed overhead and a KV cache of its own. The budget is divided
evenly; what weights and overhead leave of a share is KV cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from slm_worker import wire
from slm_worker.planning.footprint import ModelFootprint

MIB = 2**20
GPU_BUDGET_PERCENT = 90
"""The rest is for the driver, the MPS server and fragmentation; vLLM's own default is 0.9 too."""
CPU_BUDGET_PERCENT = 50
"""A host's memory also holds the agent, the page cache and whatever else runs there."""
OVERHEAD_BYTES = 3 * 2**29
"""1.5 GiB for each replica: on a GPU the CUDA context, CUDA graphs and activations of a model up
to 7B parameters; on a CPU the resident engine beyond weights and KV cache (measured: 2.1 GB for
SmolLM2-135M in float32, of which 0.5 GB weights and 0.3 GB KV cache)."""
BLOCK_TOKENS = 16
"""vLLM's KV-cache block."""


class SizedDevice(Protocol):
    """What has to be known of a device to divide its memory."""

    @property
    def kind(self) -> Literal["NVIDIA", "CPU", "Simulated"]: ...
    @property
    def memory_bytes(self) -> int: ...


@dataclass(frozen=True)
class ReplicaShare:
    """Memory settings of each replica in a layout; None leaves the choice to the engine."""

    kv_cache_bytes: int | None
    gpu_memory_utilization: float | None
    """Share of the device's memory, 0 to 1; None on a CPU."""


class LayoutError(Exception):
    """A layout with more replicas than its memory allows; ``packing`` says how many fit."""

    def __init__(self, layout: wire.Layout, packing: wire.Packing) -> None:
        super().__init__(
            f"{layout.replicas} replicas do not fit, at most {packing.max_replicas} do: "
            f"{packing.message}"
        )
        self.packing = packing


def max_replicas(footprint: ModelFootprint | None, identity: SizedDevice) -> wire.Packing:
    """How many replicas fit, with the sum in words, whatever their batch: a batch that outgrows its
    KV cache waits and is measured so.

    Zero where not even one fits. Without a footprint nothing can be said before the engine's own
    check at its start, so the answer is the wire limit.
    """
    if footprint is None:
        return wire.Packing(
            max_replicas=wire.MAX_REPLICAS_PER_PACK,
            weights_bytes=None,
            kv_bytes_per_token=None,
            message="The model's size is unknown before it is downloaded: "
            "the engine's own check at its start decides what fits.",
        )
    need_bytes = _needed_kv_bytes(footprint)
    replica_bytes = footprint.weights_bytes + OVERHEAD_BYTES + need_bytes
    fitting = _budget_bytes(identity) // replica_bytes
    remedy = "" if fitting else ". Use a smaller model, a lower --max-model-len, or more memory"
    return wire.Packing(
        max_replicas=min(fitting, wire.MAX_REPLICAS_PER_PACK),
        weights_bytes=footprint.weights_bytes,
        kv_bytes_per_token=footprint.kv_bytes_per_token,
        message=f"{_budget_percent(identity)}% of {_human(identity.memory_bytes)} is "
        f"{_human(_budget_bytes(identity))}; a replica needs {_human(replica_bytes)}: "
        f"{_human(footprint.weights_bytes)} weights, {_human(OVERHEAD_BYTES)} overhead and "
        f"at least {_human(need_bytes)} KV cache for "
        f"one sequence of {footprint.max_model_len:,} tokens of "
        f"{footprint.kv_bytes_per_token:,} bytes; so {fitting} fit{remedy}.",
    )


def share(
    layout: wire.Layout, footprint: ModelFootprint | None, identity: SizedDevice
) -> ReplicaShare:
    """What each replica of ``layout`` gets. Raises LayoutError."""
    on_cpu = identity.kind == "CPU"
    if footprint is None:
        utilization = GPU_BUDGET_PERCENT / 100 / layout.replicas
        return ReplicaShare(None, None if on_cpu else utilization)
    packing = max_replicas(footprint, identity)
    if layout.replicas > packing.max_replicas:
        raise LayoutError(layout, packing)
    fixed_bytes = footprint.weights_bytes + OVERHEAD_BYTES
    kv_bytes = _budget_bytes(identity) // layout.replicas - fixed_bytes
    kv_bytes -= kv_bytes % MIB
    if on_cpu:
        # The host's memory has other uses, and an engine touches all that it is given.
        return ReplicaShare(min(kv_bytes, _useful_kv_bytes(footprint, layout.max_num_seqs)), None)
    return ReplicaShare(kv_bytes, (fixed_bytes + kv_bytes) / identity.memory_bytes)


def _budget_percent(identity: SizedDevice) -> int:
    return CPU_BUDGET_PERCENT if identity.kind == "CPU" else GPU_BUDGET_PERCENT


def _budget_bytes(identity: SizedDevice) -> int:
    return identity.memory_bytes * _budget_percent(identity) // 100


def _needed_kv_bytes(footprint: ModelFootprint) -> int:
    """One sequence of the greatest length: vLLM refuses to start with less."""
    return _whole_mib(_whole_blocks(footprint.max_model_len) * footprint.kv_bytes_per_token)


def _useful_kv_bytes(footprint: ModelFootprint, max_num_seqs: int) -> int:
    """What all sequences need at their greatest length; more would stay empty."""
    tokens = max_num_seqs * _whole_blocks(footprint.max_model_len)
    return _whole_mib(tokens * footprint.kv_bytes_per_token)


def _whole_blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS


def _whole_mib(size_bytes: int) -> int:
    return -(-size_bytes // MIB) * MIB


def _human(size_bytes: int) -> str:
    return (
        f"{size_bytes / 2**30:,.1f} GiB" if size_bytes >= 2**30 else f"{size_bytes / MIB:,.0f} MiB"
    )
