"""PURE: what vLLM says at its start of the device memory that it took.

The sentences changed with the versions; each is taken as it is, and the last of a kind counts. All
sizes are binary, also where vLLM writes GB.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

GIB = 2**30

_SIZE = r"(?P<size>-?\d+(?:\.\d+)?) ?Gi?B"
_WEIGHTS = (
    # to 0.7, then 0.8 on
    rf"Loading model weights took {_SIZE}",
    rf"Model loading took {_SIZE}",
    # 0.10 on, where vLLM itself sizes the cache
    rf"Actual usage is {_SIZE} for weight,",
)
_ACTIVATIONS = (
    # 0.6 to the end of the old engine
    rf"PyTorch activation peak memory takes {_SIZE}",
    rf"{_SIZE} for peak activation",
)
_GRAPHS = (
    rf"Graph capturing finished in \d+ secs?, took {_SIZE}",
    rf"{_SIZE} for CUDAGraph memory",
)
_KV_CACHE = (
    rf"the rest of the memory reserved for KV Cache is {_SIZE}",
    r"kv_cache_size=(?P<size>\d+(?:\.\d+)?)GiB",
    rf"Available KV cache memory: {_SIZE}",
    # --kv-cache-memory-bytes, on a GPU and on a CPU
    rf"reserved {_SIZE} memory for KV Cache as specified",
    r"Explicitly set \((?P<size>\d+(?:\.\d+)?)/\d+(?:\.\d+)?\) GiB for KV cache",
)


@dataclass(frozen=True)
class EngineMemory:
    """Bytes; None for what the engine did not say."""

    weights_bytes: int | None = None
    activations_bytes: int | None = None
    graphs_bytes: int | None = None
    kv_cache_bytes: int | None = None


def memory_told(log: str) -> EngineMemory:
    """From the engine's output up to the moment when it was ready, or a tail of it."""
    return EngineMemory(
        weights_bytes=_last(_WEIGHTS, log),
        activations_bytes=_last(_ACTIVATIONS, log),
        graphs_bytes=_last(_GRAPHS, log),
        kv_cache_bytes=_last(_KV_CACHE, log),
    )


def _last(patterns: tuple[str, ...], log: str) -> int | None:
    found = [match for pattern in patterns for match in re.finditer(pattern, log)]
    if not found:
        return None
    size_bytes = round(float(max(found, key=re.Match.start)["size"]) * GIB)
    return size_bytes if size_bytes >= 0 else None
