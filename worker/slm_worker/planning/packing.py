"""PURE: which layouts fit on a device, and each replica's share of its memory.

Every replica holds the weights, a fixed overhead and a KV cache of its own. The budget is divided
evenly; what weights and overhead leave of a share is KV cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from slm_worker import wire
from slm_worker.planning.kv_cache import cache_bytes, capacity
from slm_worker.planning.memory import MIB, ModelFootprint, SizedDevice, human
from slm_worker.planning.overhead import fixed_lines, step_tokens

GPU_RESERVE_PERCENT = 10
"""For the driver, the MPS server and fragmentation; vLLM's own default is 0.9 too."""
CPU_RESERVE_PERCENT = 50
"""A host's memory also holds the agent, the page cache and whatever else runs there."""
USUAL_NUM_SEQS = 256
"""How many replicas fit is said for no larger batch: a search that tries a larger one for a single
replica must not see the count change meanwhile. Whether the larger batch's activations fit too is
left to the engine's own check at its start."""


@dataclass(frozen=True)
class ReplicaShare:
    """Memory settings of each replica in a layout; None leaves the choice to the engine."""

    kv_cache_bytes: int | None
    gpu_memory_utilization: float | None
    """Share of the device's memory, 0 to 1; None on a CPU."""


class LayoutError(Exception):
    """A layout with more replicas than its memory allows; ``packing`` says how many fit,
    ``remedies`` what would make it fit."""

    def __init__(
        self, layout: wire.Layout, packing: wire.Packing, remedies: Sequence[str] = ()
    ) -> None:
        text = (
            f"{layout.replicas} replicas do not fit, at most {packing.max_replicas} do: "
            f"{packing.message}"
        )
        super().__init__(with_remedies(text, remedies))
        self.packing = packing


def max_replicas(
    footprint: ModelFootprint | None,
    device: SizedDevice,
    *,
    reserve_bytes: int | None = None,
    layout: wire.Layout | None = None,
    load: wire.Load | None = None,
    kv_cache_bytes: int | None = None,
) -> wire.Packing:
    """How many replicas of ``layout``'s batch fit, with the sum line by line.

    Zero where not even one fits. Without a footprint nothing can be said before the engine's own
    check at its start, so the answer is the wire limit. ``reserve_bytes`` is kept free; None is a
    tenth of the device, or half of a host's memory. ``load`` gives the expected lengths,
    ``kv_cache_bytes`` what replicas of ``layout`` have already been given.
    """
    if footprint is None:
        return wire.Packing(
            max_replicas=wire.MAX_REPLICAS_PER_PACK,
            weights_bytes=None,
            kv_bytes_per_token=None,
            message="What a replica needs is not known (the model is not downloaded yet, or of a "
            "kind that the planner does not know, or has a draft model): the engine's own check at "
            "its start decides what fits.",
        )
    num_seqs = layout.max_num_seqs if layout is not None else USUAL_NUM_SEQS
    fitting = fitting_replicas(footprint, device, reserve_bytes, num_seqs)
    lines = needed_lines(footprint, device, num_seqs)
    packing = wire.Packing(
        max_replicas=min(fitting, wire.MAX_REPLICAS_PER_PACK),
        weights_bytes=footprint.weights_bytes,
        kv_bytes_per_token=footprint.kv_bytes_per_token,
        message=_in_words(lines, device, reserve_bytes, fitting),
        lines=lines,
        footprint=footprint,
        reserve_bytes=reserve_bytes,
        max_num_seqs=num_seqs,
    )
    if layout is None or layout.replicas > packing.max_replicas:
        return packing
    kv_bytes = kv_cache_bytes or _kv_cache_bytes(layout, footprint, device, reserve_bytes)
    length = load.prompt_tokens + load.output_tokens if load else footprint.max_model_len
    return packing.model_copy(
        update={
            "lines": (*fixed_lines(footprint, device, num_seqs), _kv_line(kv_bytes)),
            "capacity": capacity(footprint, device, kv_bytes, length),
        }
    )


def share(
    layout: wire.Layout,
    footprint: ModelFootprint | None,
    device: SizedDevice,
    reserve_bytes: int | None = None,
) -> ReplicaShare:
    """What each replica of ``layout`` gets. Raises LayoutError."""
    on_cpu = device.kind == "CPU"
    budget_bytes = _budget_bytes(device, reserve_bytes)
    if footprint is None:
        utilization = _rounded_down(budget_bytes / device.memory_bytes / layout.replicas)
        return ReplicaShare(None, None if on_cpu else utilization)
    num_seqs = layout.max_num_seqs
    if layout.replicas > fitting_replicas(footprint, device, reserve_bytes, num_seqs):
        raise LayoutError(
            layout, max_replicas(footprint, device, reserve_bytes=reserve_bytes, layout=layout)
        )
    kv_bytes = _kv_cache_bytes(layout, footprint, device, reserve_bytes)
    if on_cpu:
        return ReplicaShare(kv_bytes, None)
    used_bytes = _total(fixed_lines(footprint, device, num_seqs)) + kv_bytes
    used_bytes = min(used_bytes, budget_bytes // layout.replicas)
    return ReplicaShare(kv_bytes, _rounded_down(used_bytes / device.memory_bytes))


def fitting_replicas(
    footprint: ModelFootprint, device: SizedDevice, reserve_bytes: int | None, max_num_seqs: int
) -> int:
    """By memory alone, without the wire's limit."""
    lines = needed_lines(footprint, device, max_num_seqs)
    return _budget_bytes(device, reserve_bytes) // _total(lines)


def needed_lines(
    footprint: ModelFootprint, device: SizedDevice, max_num_seqs: int
) -> tuple[wire.MemoryLine, ...]:
    """The least that one replica needs, whose KV cache holds one sequence of the greatest
    length."""
    num_seqs = min(max_num_seqs, USUAL_NUM_SEQS)
    kv_bytes = cache_bytes(footprint, device, 1, step_tokens(footprint, device, num_seqs))
    what = f"KV cache for one sequence of {footprint.max_model_len:,} tokens"
    return *fixed_lines(footprint, device, num_seqs), _kv_line(kv_bytes, what)


def with_remedies(text: str, remedies: Sequence[str]) -> str:
    """``text`` as a sentence, and what would make it fit."""
    text = text.rstrip(".")
    return f"{text}. What would make it fit: {', or '.join(remedies)}." if remedies else f"{text}."


def _kv_cache_bytes(
    layout: wire.Layout,
    footprint: ModelFootprint,
    device: SizedDevice,
    reserve_bytes: int | None,
) -> int:
    """What weights and overhead leave of a share; at least what the engine insists on."""
    num_seqs = layout.max_num_seqs
    tokens = step_tokens(footprint, device, num_seqs)
    fixed_bytes = _total(fixed_lines(footprint, device, num_seqs))
    kv_bytes = _budget_bytes(device, reserve_bytes) // layout.replicas - fixed_bytes
    kv_bytes = max(kv_bytes - kv_bytes % MIB, cache_bytes(footprint, device, 1, tokens))
    if device.kind == "CPU":
        # The host's memory has other uses, and an engine touches all that it is given.
        return min(kv_bytes, cache_bytes(footprint, device, num_seqs, tokens))
    return kv_bytes


def _budget_bytes(device: SizedDevice, reserve_bytes: int | None) -> int:
    return max(0, device.memory_bytes - _reserve_bytes(device, reserve_bytes))


def _reserve_bytes(device: SizedDevice, reserve_bytes: int | None) -> int:
    if reserve_bytes is not None:
        return reserve_bytes
    percent = CPU_RESERVE_PERCENT if device.kind == "CPU" else GPU_RESERVE_PERCENT
    return -(-device.memory_bytes * percent // 100)


def _in_words(
    lines: Sequence[wire.MemoryLine],
    device: SizedDevice,
    reserve_bytes: int | None,
    fitting: int,
) -> str:
    parts = ", ".join(f"{line.what} {human(line.size_bytes)} ({line.source})" for line in lines)
    reserve = human(_reserve_bytes(device, reserve_bytes))
    return (
        f"Of {human(device.memory_bytes)} {reserve} are kept free, so replicas have "
        f"{human(_budget_bytes(device, reserve_bytes))}; each needs "
        f"{human(_total(lines))}: {parts}; so {fitting} fit."
    )


def _kv_line(size_bytes: int, what: str = "KV cache") -> wire.MemoryLine:
    return wire.MemoryLine(what=what, size_bytes=size_bytes, source="estimated")


def _total(lines: Sequence[wire.MemoryLine]) -> int:
    return sum(line.size_bytes for line in lines)


def _rounded_down(utilization: float) -> float:
    """To the four decimals that the engine is given, so that the shares never add up to more than
    the budget."""
    return math.floor(utilization * 10_000) / 10_000
