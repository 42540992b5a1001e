"""PURE: what would make a layout fit that does not, computed with the planner itself."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from slm_worker import wire
from slm_worker.planning.memory import GIB, ModelFootprint, SizedDevice
from slm_worker.planning.overhead import LARGE_DEVICE_GIB
from slm_worker.planning.packing import fitting_replicas

SHORTEST_USEFUL_TOKENS = 256
"""A shorter longest sequence is no remedy."""
LARGEST_DEVICE_GIB = 1024
_LENGTH_STEP_TOKENS = 256


@dataclass(frozen=True)
class _OtherDevice:
    kind: Literal["NVIDIA", "CPU", "Simulated"]
    memory_bytes: int


def remedies(wanted: int, packing: wire.Packing, device: SizedDevice) -> tuple[str, ...]:
    """Each alone would make ``wanted`` replicas fit. Empty where memory is not what stands in the
    way, or where nobody knows the model's size."""
    footprint, num_seqs = packing.footprint, packing.max_num_seqs
    if footprint is None or num_seqs is None:
        return ()
    reserve_bytes = packing.reserve_bytes

    def fits(
        other: ModelFootprint = footprint, *, on: SizedDevice = device, batch: int = num_seqs
    ) -> bool:
        return fitting_replicas(other, on, reserve_bytes, batch) >= wanted

    if fits():
        return ()
    found = []
    length = _longest(footprint, lambda shorter: fits(shorter))
    if length is not None:
        found.append(f"--max-model-len {length}")
    if footprint.kv_element_bytes > 1 and device.kind == "NVIDIA" and fits(_in_fp8(footprint)):
        found.append("--kv-cache-dtype fp8")
    batch = _largest_batch(num_seqs, lambda fewer: fits(batch=fewer))
    if batch is not None:
        found.append(f"spec.engine.maxNumSeqs {batch}")
    if packing.max_replicas == 1:
        found.append("1 replica")
    elif packing.max_replicas > 1:
        found.append(f"{packing.max_replicas} replicas")
    memory_gib = _smallest_device_gib(lambda gib: fits(on=_OtherDevice(device.kind, gib * GIB)))
    if memory_gib is not None:
        what = "host" if device.kind == "CPU" else "GPU"
        found.append(f"a {what} with at least {memory_gib} GiB")
    return tuple(found)


def _longest(footprint: ModelFootprint, fits: Callable[[ModelFootprint], bool]) -> int | None:
    """The greatest length, in whole steps, below the present one with which it fits."""
    low, high = 0, (footprint.max_model_len - 1) // _LENGTH_STEP_TOKENS
    while low < high:
        middle = (low + high + 1) // 2
        if fits(_with_length(footprint, middle * _LENGTH_STEP_TOKENS)):
            low = middle
        else:
            high = middle - 1
    length = low * _LENGTH_STEP_TOKENS
    return length if length >= SHORTEST_USEFUL_TOKENS else None


def _with_length(footprint: ModelFootprint, tokens: int) -> ModelFootprint:
    return footprint.model_copy(update={"max_model_len": tokens})


def _in_fp8(footprint: ModelFootprint) -> ModelFootprint:
    element = footprint.kv_element_bytes
    window = footprint.sliding
    return footprint.model_copy(
        update={
            "kv_bytes_per_token": footprint.kv_bytes_per_token // element,
            "kv_element_bytes": 1,
            "sliding": window
            and window.model_copy(
                update={
                    "windowed_bytes_per_token": window.windowed_bytes_per_token // element,
                    "full_bytes_per_token": window.full_bytes_per_token // element,
                }
            ),
        }
    )


def _largest_batch(num_seqs: int, fits: Callable[[int], bool]) -> int | None:
    """The greatest power of two below the present batch with which it fits."""
    batch = 1 << max(0, num_seqs - 1).bit_length()
    while batch > 1:
        batch //= 2
        if batch < num_seqs and fits(batch):
            return batch
    return None


def _smallest_device_gib(fits: Callable[[int], bool]) -> int | None:
    """The least memory from which on it always fits. Among large devices and among others more
    memory always helps; a device that only just counts as large may hold less than one below."""
    found = None
    for low, high in ((LARGE_DEVICE_GIB, LARGEST_DEVICE_GIB), (1, LARGE_DEVICE_GIB - 1)):
        if not fits(high):
            break
        found = low + bisect_left(range(low, high), True, key=fits)
        if found > low:
            break
    return found
