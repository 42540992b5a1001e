"""PURE: memory of keys and values: for each token, for a sequence, and how many sequences fit.

Blocks, windows and groups as vLLM 0.11 and later have them. Earlier versions give every layer the
whole sequence, as ``--disable-hybrid-kv-cache-manager`` still does.
"""

from __future__ import annotations

from slm_worker.planning.memory import (
    MIB,
    KvCapacity,
    ModelFootprint,
    SizedDevice,
    SlidingWindow,
)
from slm_worker.planning.model_config import ModelConfig

_BLOCK_TOKENS = 16
"""vLLM's KV-cache block where its arguments name none."""
_CPU_BLOCK_TOKENS = 128
_STEPS_AT_ONCE = 2
"""vLLM 0.32 schedules a step while the one before it runs; earlier versions reckon with one."""
_LOPSIDED = 1.5
"""Below this ratio of layers vLLM makes groups of the more frequent kind's size, above it of the
less frequent's."""
_COMPRESSED = frozenset(
    {"axk1", "bailing_hybrid", "deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v4"}
    | {"deepseek_v41", "dots3_note", "glm4_moe_lite", "glm5_next", "glm5_next_text"}
    | {"glm_moe_dsa", "hy_v4", "kimi_k2", "kimi_linear", "longcat_flash", "pangu_ultra_moe"}
)
"""``model_type``s of whose latent attention (MLA) vLLM 0.32 caches the compressed vector. Of others
it caches keys and values."""


def elements_per_token(config: ModelConfig) -> int:
    """Of all layers."""
    return config.layers * _layer_elements(config)


def sliding_window(config: ModelConfig, element_bytes: int) -> SlidingWindow | None:
    """What layers with a window take; None where no layer has one."""
    windowed = config.windowed_layers
    if config.sliding_window is None or windowed == 0:
        return None
    full = config.layers - windowed
    if full:
        few, many = sorted((full, windowed))
        group = many if many < _LOPSIDED * few else few
        full, windowed = _up_to(full, group), _up_to(windowed, group)
    layer_bytes = _layer_elements(config) * element_bytes
    return SlidingWindow(
        window_tokens=config.sliding_window,
        windowed_bytes_per_token=windowed * layer_bytes,
        full_bytes_per_token=full * layer_bytes,
    )


def sequence_bytes(
    footprint: ModelFootprint, device: SizedDevice, tokens: int, step_tokens: int
) -> int:
    """Most that one sequence of ``tokens`` takes while steps of ``step_tokens`` fill it: vLLM frees
    what left a window only after the step, while the next one is on its way already, and a window
    may begin inside a block."""
    block = _block_tokens(footprint, device)
    whole = _up_to(tokens, block)
    window = footprint.sliding
    if window is None:
        return whole * footprint.kv_bytes_per_token
    kept = min(window.window_tokens - 1 + _STEPS_AT_ONCE * step_tokens, tokens)
    kept = _up_to(kept, block) + block
    return whole * window.full_bytes_per_token + kept * window.windowed_bytes_per_token


def cache_bytes(
    footprint: ModelFootprint, device: SizedDevice, sequences: int, step_tokens: int
) -> int:
    """What ``sequences`` need at their greatest length, and the block that vLLM keeps empty. Whole
    MiB. With less than one needs vLLM refuses to start; more than all need would stay empty."""
    window = footprint.sliding
    token_bytes = footprint.kv_bytes_per_token
    if window is not None:
        token_bytes = window.full_bytes_per_token + window.windowed_bytes_per_token
    empty_bytes = _block_tokens(footprint, device) * token_bytes
    each_bytes = sequence_bytes(footprint, device, footprint.max_model_len, step_tokens)
    return _up_to(sequences * each_bytes + empty_bytes, MIB)


def capacity(
    footprint: ModelFootprint, device: SizedDevice, kv_cache_bytes: int, sequence_tokens: int
) -> KvCapacity:
    """How much of sequences of this length the cache holds while they are decoded."""
    length = min(sequence_tokens, footprint.max_model_len)
    sequences = kv_cache_bytes // sequence_bytes(footprint, device, length, 1)
    return KvCapacity(
        kv_cache_bytes=kv_cache_bytes,
        sequence_tokens=length,
        sequences=sequences,
        tokens=sequences * length,
    )


def _block_tokens(footprint: ModelFootprint, device: SizedDevice) -> int:
    usual = _CPU_BLOCK_TOKENS if device.kind == "CPU" else _BLOCK_TOKENS
    return footprint.block_tokens or usual


def _layer_elements(config: ModelConfig) -> int:
    if config.kv_lora_rank is None:
        return 2 * config.key_value_heads * config.attention_head_dim
    if config.model_type in _COMPRESSED:
        return config.kv_lora_rank + config.qk_rope_head_dim
    head_dim = config.qk_nope_head_dim + config.qk_rope_head_dim or config.attention_head_dim
    return 2 * config.heads * head_dim


def _up_to(value: int, unit: int) -> int:
    return -(-value // unit) * unit
