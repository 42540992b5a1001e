"""PURE: how much memory a model needs, from its published configuration and the engine's arguments.

The sums describe decoder-only transformers as vLLM serves them. Where a model can do with less
(state-space layers), the result is an upper bound.
"""

from __future__ import annotations

from collections.abc import Sequence

from slm_worker.planning.engine_args import (
    Options,
    choice,
    drafts_by_model,
    parse_options,
    switched,
    token_count,
    whole_number,
)
from slm_worker.planning.kv_cache import elements_per_token, sliding_window
from slm_worker.planning.memory import ModelFootprint, Runtime
from slm_worker.planning.model_config import ModelConfig, ModelError, Tensor, parse_config
from slm_worker.planning.parameters import PLAIN_MLP, count_parameters
from slm_worker.planning.quantization import (
    Quantization,
    asked_quantization,
    stored_quantization,
)

__all__ = [
    "DTYPE_BYTES",
    "PLAIN_MLP",
    "ModelConfig",
    "ModelError",
    "ModelFootprint",
    "Tensor",
    "footprint",
    "parse_config",
]

DTYPE_BYTES = {"auto": 2, "half": 2, "float16": 2, "bfloat16": 2, "float": 4, "float32": 4}
"""``--dtype``; ``auto`` serves float32 checkpoints in 16 bits too."""
_ONE_BYTE_KV_DTYPES = frozenset({"fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc"})
"""``--kv-cache-dtype``; others take at most 16 bits with what they keep beside an element."""
_CHECKPOINT_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""safetensors types that the engine converts to ``--dtype``; others (quantised) stay as stored."""
_STORED_BITS = {"I64": 64, "U64": 64, "I32": 32, "U32": 32, "I16": 16, "U16": 16, "F4": 4}
_NEVER_QUANTISED = ("embed", "wte", "wpe", "lm_head", "norm", "router", "mlp.gate.")
"""Parts of the names of matrices that engines leave in 16 bits."""


def footprint(
    config: ModelConfig, tensors: Sequence[Tensor] | None, args: Sequence[str]
) -> ModelFootprint | None:
    """What one replica needs.

    ``tensors`` are the checkpoint's; None estimates the weights from ``config``, which gives None
    for a mixture of experts of a family that is not known. None also where a further model drafts
    tokens, of which nothing was read. ``args`` are the engine's. Raises ModelError
    (EngineArgsInvalid).
    """
    options = parse_options(args)
    dtype_bytes = choice(options, "dtype", DTYPE_BYTES, default="auto")
    kv_element_bytes = _kv_element_bytes(options, dtype_bytes)
    stored = stored_quantization(config)
    asked = None if stored else asked_quantization(options)
    if tensors is not None:
        weights_bytes: int | None = _stored_bytes(tensors, config.tied, dtype_bytes, asked)
    else:
        weights_bytes = _estimated_bytes(config, dtype_bytes, stored or asked)
    adapters_bytes = _adapters_bytes(config, options, dtype_bytes)
    if weights_bytes is None or adapters_bytes is None or drafts_by_model(options):
        return None
    # Of most connectors vLLM turns the manager off unasked.
    connected = any(option.startswith("kv-transfer-config") for option in options)
    hybrid = not switched(options, "disable-hybrid-kv-cache-manager", default=connected)
    return ModelFootprint(
        weights_bytes=weights_bytes + adapters_bytes,
        weights_source="read" if tensors is not None and asked is None else "estimated",
        kv_bytes_per_token=elements_per_token(config) * kv_element_bytes,
        kv_element_bytes=kv_element_bytes,
        max_model_len=token_count(options, "max-model-len") or config.usual_longest_sequence,
        sliding=sliding_window(config, kv_element_bytes) if hybrid else None,
        block_tokens=token_count(options, "block-size"),
        runtime=_runtime(config, options, dtype_bytes),
    )


def _kv_element_bytes(options: Options, dtype_bytes: int) -> int:
    kv_dtype = options.get("kv-cache-dtype", "auto")
    if kv_dtype == "auto" or "kv-cache-dtype-skip-layers" in options:
        return dtype_bytes
    return 1 if kv_dtype in _ONE_BYTE_KV_DTYPES else 2


def _runtime(config: ModelConfig, options: Options, dtype_bytes: int) -> Runtime:
    return Runtime(
        layers=config.layers,
        activation_bytes_per_token=_activation_elements(config) * dtype_bytes,
        vocab=config.vocab,
        max_num_batched_tokens=token_count(options, "max-num-batched-tokens"),
        doubled_step=options.get("performance-mode") == "throughput",
        chunked_prefill=switched(options, "enable-chunked-prefill", default=True),
        cuda_graphs=not switched(options, "enforce-eager", default=False),
        adapters=switched(options, "enable-lora", default=False),
    )


def _activation_elements(config: ModelConfig) -> int:
    """For each token: residual, input and output of a layer, its queries, keys and values, and the
    MLP's inner tensors (both halves and their product where it is gated)."""
    attention = (config.heads + 2 * config.key_value_heads) * config.attention_head_dim
    inner = config.inner
    if config.experts:
        inner = (config.experts_per_token or 1) * (config.expert_intermediate or config.inner)
    width = 2 if config.model_type in PLAIN_MLP else 3
    return 3 * config.hidden + attention + width * inner


def _adapters_bytes(config: ModelConfig, options: Options, dtype_bytes: int) -> int | None:
    """What vLLM reserves for LoRA adapters beside the weights, whether any is loaded or not."""
    if not switched(options, "enable-lora", default=False):
        return 0
    counts = count_parameters(config)
    ranks = whole_number(options, "max-loras", 1) * whole_number(options, "max-lora-rank", 16)
    return None if counts is None else ranks * counts.adapter_width * dtype_bytes


def _estimated_bytes(
    config: ModelConfig, dtype_bytes: int, quantization: Quantization | None
) -> int | None:
    counts = count_parameters(config)
    if counts is None:
        return None
    kept = counts.embeddings + counts.rest
    quantised = counts.matrices + counts.experts
    if quantization is None:
        return (kept + quantised) * dtype_bytes
    if quantization.experts_only:
        kept, quantised = kept + counts.matrices, counts.experts
    return kept * dtype_bytes + round(quantised * quantization.bits / 8)


def _stored_bytes(
    tensors: Sequence[Tensor], tied: bool, dtype_bytes: int, asked: Quantization | None
) -> int:
    total_bits = 0.0
    for tensor in tensors:
        if tied and tensor.name == "lm_head.weight":
            continue  # a second copy of the embedding, which the engine does not load
        if tensor.dtype not in _CHECKPOINT_FLOATS:
            bits: float = _STORED_BITS.get(tensor.dtype, 8)
        elif asked is not None and _is_quantised(tensor):
            bits = asked.bits
        else:
            bits = 8 * dtype_bytes
        total_bits += tensor.elements * bits
    return -(-int(total_bits) // 8)


def _is_quantised(tensor: Tensor) -> bool:
    return tensor.dimensions > 1 and not any(part in tensor.name for part in _NEVER_QUANTISED)
