"""PURE: how many parameters a configuration describes, by what they are used for.

Exact for OPT, GPT-2, Llama, Mistral, Qwen2, Qwen3, Gemma, Phi-3, StarCoder2, Mixtral, OLMoE,
DeepSeek-V2, MiniCPM3 and gpt-oss; for other dense decoders right within 0.1 %.
"""

from __future__ import annotations

from dataclasses import dataclass

from slm_worker.planning.model_config import ENGINE_DEFAULT_MAX_MODEL_LEN, ModelConfig

PLAIN_MLP = frozenset(
    {"opt", "gpt2", "gpt_bigcode", "gpt_neox", "gptj", "phi", "falcon", "bloom", "starcoder2"}
)
"""``model_type``s with two matrices in the MLP and biases, instead of three (gated) without."""
LEARNED_POSITIONS = {"opt": 2, "gpt2": 0, "gpt_bigcode": 0}
"""``model_type``s with a learned position embedding: rows beyond the longest sequence."""
EXPERT_FAMILIES = frozenset(
    {"mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3", "gpt_oss"}
)
"""Mixtures of experts whose shapes are known here."""
_QKV_BIAS = frozenset({"qwen2", "qwen2_moe"})
_OUTPUT_BIAS_TOO = frozenset({"llama", "gpt_oss"})
"""Where ``attention_bias`` also gives the output projection one."""
_HEAD_NORMS = frozenset({"qwen3", "qwen3_moe", "gemma3", "gemma3_text"})
_FOUR_NORMS = frozenset({"gemma2", "gemma3", "gemma3_text"})


@dataclass(frozen=True)
class Parameters:
    """Counts; quantisation reaches matrices and experts, and leaves the rest."""

    embeddings: int
    """Token and position embeddings, and the output layer where it is one of its own."""
    matrices: int
    """Of attention and dense MLPs."""
    experts: int
    rest: int
    """Norms, biases, routers."""

    @property
    def total(self) -> int:
        return self.embeddings + self.matrices + self.experts + self.rest


def estimated_parameters(config: ModelConfig) -> int | None:
    """None for a mixture of experts of a family that is not known here."""
    counts = count_parameters(config)
    return None if counts is None else counts.total


def count_parameters(config: ModelConfig) -> Parameters | None:
    """None for a mixture of experts of a family that is not known here."""
    if config.experts and config.model_type not in EXPERT_FAMILIES:
        return None
    attention, attention_rest = _attention(config)
    plain = config.model_type in PLAIN_MLP
    dense = (2 if plain else 3) * config.hidden * config.inner
    dense_rest = config.inner + config.hidden if plain else 0
    norm = 2 * config.hidden if plain else config.hidden
    norms = 4 if config.model_type in _FOUR_NORMS else 2
    dense_layers = config.layers
    experts = experts_rest = 0
    if config.experts:
        dense_layers = config.leading_dense_layers or 0
        experts, experts_rest = _experts(config)
    expert_layers = config.layers - dense_layers
    return Parameters(
        embeddings=_embeddings(config),
        matrices=config.layers * attention + dense_layers * dense,
        experts=expert_layers * experts,
        rest=config.layers * (attention_rest + norms * norm)
        + dense_layers * dense_rest
        + expert_layers * experts_rest
        + norm,
    )


def _embeddings(config: ModelConfig) -> int:
    tables = config.vocab * config.hidden * (1 if config.tied else 2)
    if config.model_type in LEARNED_POSITIONS:
        rows = config.max_positions or ENGINE_DEFAULT_MAX_MODEL_LEN
        tables += (rows + LEARNED_POSITIONS[config.model_type]) * config.hidden
    return tables


def _attention(config: ModelConfig) -> tuple[int, int]:
    """Of one layer: matrices, and what is none."""
    hidden, heads = config.hidden, config.heads
    if config.kv_lora_rank is not None:
        return _latent_attention(config, config.kv_lora_rank)
    query = heads * config.attention_head_dim
    key_value = 2 * config.key_value_heads * config.attention_head_dim
    rest = 0
    if config.model_type in PLAIN_MLP:
        rest = query + key_value + hidden
    elif config.attention_bias or config.model_type in _QKV_BIAS:
        rest = query + key_value
        if config.attention_bias and config.model_type in _OUTPUT_BIAS_TOO:
            rest += hidden
    if config.model_type in _HEAD_NORMS:
        rest += 2 * config.attention_head_dim
    if config.model_type == "olmoe":
        rest += query + key_value // 2
    if config.model_type == "gpt_oss":
        rest += heads  # attention sinks
    return hidden * (query + key_value) + query * hidden, rest


def _latent_attention(config: ModelConfig, rank: int) -> tuple[int, int]:
    query = config.heads * (config.qk_nope_head_dim + config.qk_rope_head_dim)
    if config.q_lora_rank is None:
        queries, rest = config.hidden * query, rank
    else:
        queries = config.q_lora_rank * (config.hidden + query)
        rest = rank + config.q_lora_rank
    down = config.hidden * (rank + config.qk_rope_head_dim)
    values = config.heads * (config.v_head_dim or config.attention_head_dim)
    up = rank * (config.heads * config.qk_nope_head_dim + values)
    return queries + down + up + values * config.hidden, rest


def _experts(config: ModelConfig) -> tuple[int, int]:
    """Of one layer with experts: their matrices, and routers, gates and biases."""
    count = config.experts or 0
    inner = config.expert_intermediate or config.inner
    shared = config.shared_intermediate or (config.shared_experts or 0) * inner
    matrices = 3 * config.hidden * (count * inner + shared)
    rest = config.hidden * count
    if config.shared_intermediate:
        rest += config.hidden  # the gate of the shared expert
    if config.model_type == "gpt_oss":
        rest += count + count * (2 * inner + config.hidden)
    return matrices, rest
