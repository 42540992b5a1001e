"""PURE: what a model needs of a device's memory, as the planner's figures travel between its parts.

The agent reports :class:`ModelFootprint` with its packing, so that the operator can ask the same
planner what would fit.
"""

from __future__ import annotations

from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict

KIB, MIB, GIB = 2**10, 2**20, 2**30


class SizedDevice(Protocol):
    """What has to be known of a device to divide its memory."""

    @property
    def kind(self) -> Literal["NVIDIA", "CPU", "Simulated"]: ...
    @property
    def memory_bytes(self) -> int: ...


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class SlidingWindow(_Figures):
    """Layers that keep only the latest tokens of a sequence, beside those that keep all.

    The bytes are what vLLM's blocks take, which pad both kinds to groups of equal size.
    """

    window_tokens: int
    windowed_bytes_per_token: int
    full_bytes_per_token: int
    """Zero where every layer has a window."""


class Runtime(_Figures):
    """What decides the memory of an engine beside weights and KV cache. The defaults are those of
    Llama-3-8B in 16 bits."""

    layers: int = 32
    activation_bytes_per_token: int = 122_880
    """Largest tensors that live at the same time in one layer, for each token of a step."""
    vocab: int = 128_256
    max_num_batched_tokens: int | None = None
    """Tokens of the largest step; None is the engine's default."""
    doubled_step: bool = False
    """Whether that default is doubled."""
    chunked_prefill: bool = True
    """Whether a prompt may be spread over steps; else a step holds the longest."""
    cuda_graphs: bool = True
    adapters: bool = False
    """Whether there are graphs for steps with LoRA adapters beside those without."""


class MeasuredBatch(_Figures):
    """What follows the batch that an engine was started with."""

    max_num_seqs: int
    activations_bytes: int | None = None
    graphs_bytes: int | None = None


class Measured(_Figures):
    """What replicas that started really took beside weights and KV cache; None where nobody could
    see it."""

    context_bytes: int | None = None
    """Held once they were ready and not accounted for by any other line."""
    batches: tuple[MeasuredBatch, ...] = ()
    """One for each batch that was started."""

    def batch(self, max_num_seqs: int) -> MeasuredBatch:
        for known in self.batches:
            if known.max_num_seqs == max_num_seqs:
                return known
        return MeasuredBatch(max_num_seqs=max_num_seqs)


class ModelFootprint(_Figures):
    """Memory that one replica of a model needs, as the engine's arguments set it."""

    weights_bytes: int
    """With the room for LoRA adapters."""
    kv_bytes_per_token: int
    """Keys and values of all layers, as if none had a window."""
    max_model_len: int
    """Tokens of the longest sequence, prompt and output together."""
    weights_source: Literal["measured", "read", "estimated"] = "estimated"
    kv_element_bytes: int = 2
    sliding: SlidingWindow | None = None
    block_tokens: int | None = None
    """Of the KV cache; None is the engine's default."""
    runtime: Runtime = Runtime()
    measured: Measured = Measured()


class KvCapacity(_Figures):
    """What one replica's KV cache holds of sequences of one length."""

    kv_cache_bytes: int
    sequence_tokens: int
    """Prompt and output of the expected load; the longest sequence where none is known."""
    sequences: int
    """So many fit at their full length; more would be preempted, one after another."""
    tokens: int
    """Of those sequences."""


def human(size_bytes: int) -> str:
    """``2.5 GiB``, or below one GiB ``384 MiB``."""
    if size_bytes >= GIB:
        return f"{size_bytes / GIB:,.1f} GiB"
    return f"{size_bytes / MIB:,.0f} MiB"
