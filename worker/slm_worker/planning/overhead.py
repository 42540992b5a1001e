"""PURE: memory of a replica beside its KV cache: weights, context, activations, CUDA graphs.

What a start has shown (``ModelFootprint.measured``) replaces an estimate.
"""

from __future__ import annotations

from slm_worker.planning.memory import GIB, KIB, ModelFootprint, SizedDevice
from slm_worker.wire import MemoryLine

CONTEXT_BYTES = GIB
"""CUDA context (0.5 GiB on an H100), what a client of the MPS server adds, and the workspaces of
cuBLAS, FlashInfer (0.4 GiB) and NCCL, with vLLM's own margin of 150 MiB."""
CPU_PROCESS_BYTES = 3 * 2**29
"""1.5 GiB: the resident engine on a CPU beyond weights and KV cache (measured: 2.1 GB for
SmolLM2-135M in float32, of which 0.5 GB weights and 0.3 GB KV cache)."""
SAMPLER_BYTES_PER_LOGIT = 14
"""A logit in 16 bits, in float32, and the sampler's copies. With it the sum is 8 % over what vLLM
0.6 reports for Llama-3-8B (1.26 GiB with 8,192 tokens) and 15 % over it for Qwen2.5-0.5B (0.50 GiB
with 2,048), both with 256 sequences."""
GRAPH_LAYER_BYTES = 256 * KIB
"""One layer in one CUDA graph: about what vLLM 0.19 reports (0.73 GiB for 86 graphs of 36
layers)."""
LARGEST_GRAPH = 512
"""Tokens of vLLM's largest CUDA graph."""
_BATCHED_TOKENS = 8192
_LARGE_DEVICE_BATCHED_TOKENS = 16_384
LARGE_DEVICE_GIB = 160
"""From here on vLLM's default step is larger."""
_CPU_BATCHED_TOKENS = 2048


def step_tokens(footprint: ModelFootprint, device: SizedDevice, max_num_seqs: int) -> int:
    """Tokens of the engine's largest step."""
    runtime = footprint.runtime
    tokens = runtime.max_num_batched_tokens
    if tokens is None:
        tokens = _default_step_tokens(device) * (2 if runtime.doubled_step else 1)
    if not runtime.chunked_prefill:
        tokens = max(tokens, footprint.max_model_len)
    return min(tokens, max_num_seqs * footprint.max_model_len)


def _default_step_tokens(device: SizedDevice) -> int:
    """vLLM's for a server: 16,384 from 160 GiB on, 8,192 from 70 GiB on, 2,048 below; here 8,192
    below too, so that a little more memory never holds fewer replicas."""
    if device.kind == "CPU":
        return _CPU_BATCHED_TOKENS
    large = device.memory_bytes >= LARGE_DEVICE_GIB * GIB
    return _LARGE_DEVICE_BATCHED_TOKENS if large else _BATCHED_TOKENS


def fixed_lines(
    footprint: ModelFootprint, device: SizedDevice, max_num_seqs: int
) -> tuple[MemoryLine, ...]:
    """The sum without the KV cache."""
    weights = MemoryLine(
        what="weights", size_bytes=footprint.weights_bytes, source=footprint.weights_source
    )
    activations = _activations(footprint, device, max_num_seqs)
    if device.kind == "CPU":
        return weights, _line("engine process", CPU_PROCESS_BYTES, None), activations
    context = _line("CUDA context and libraries", CONTEXT_BYTES, footprint.measured.context_bytes)
    if not footprint.runtime.cuda_graphs:
        return weights, context, activations
    return weights, context, activations, _graphs(footprint, device, max_num_seqs)


def _activations(footprint: ModelFootprint, device: SizedDevice, max_num_seqs: int) -> MemoryLine:
    runtime = footprint.runtime
    tokens = step_tokens(footprint, device, max_num_seqs)
    estimate = tokens * runtime.activation_bytes_per_token
    estimate += max_num_seqs * runtime.vocab * SAMPLER_BYTES_PER_LOGIT
    seen = footprint.measured.batch(max_num_seqs).activations_bytes
    return _line(f"activations for {tokens:,} tokens a step", estimate, seen)


def _graphs(footprint: ModelFootprint, device: SizedDevice, max_num_seqs: int) -> MemoryLine:
    graphs = _graph_count(max_num_seqs, step_tokens(footprint, device, max_num_seqs))
    if footprint.runtime.adapters:
        graphs *= 2
    estimate = graphs * footprint.runtime.layers * GRAPH_LAYER_BYTES
    seen = footprint.measured.batch(max_num_seqs).graphs_bytes
    return _line("CUDA graphs", estimate, seen)


def _graph_count(max_num_seqs: int, tokens: int) -> int:
    """vLLM captures steps of any kind up to twice the batch, and steps of decoding alone up to the
    batch: 1, 2, 4, then each multiple of 8 below 256 and of 16 from there on."""
    largest = min(LARGEST_GRAPH, tokens)
    return _sizes_up_to(min(2 * max_num_seqs, largest)) + _sizes_up_to(min(max_num_seqs, largest))


def _sizes_up_to(largest: int) -> int:
    small = sum(size <= largest for size in (1, 2, 4))
    return small + min(largest, 255) // 8 + max(0, largest - 256 + 16) // 16


def _line(what: str, estimate_bytes: int, measured_bytes: int | None) -> MemoryLine:
    if measured_bytes is not None:
        return MemoryLine(what=what, size_bytes=measured_bytes, source="measured")
    return MemoryLine(what=what, size_bytes=estimate_bytes, source="estimated")
