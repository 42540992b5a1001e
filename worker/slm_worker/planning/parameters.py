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


_Shapes = list[tuple[int, int]]
"""Inputs and outputs of matrices."""


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
    adapter_width: int
    """Inputs and outputs of all matrices and embeddings: parameters of each rank of an adapter
    (LoRA) that changes them all."""

    @property
    def total(self) -> int:
        return self.embeddings + self.matrices + self.experts + self.rest


def count_parameters(config: ModelConfig) -> Parameters | None:
    """None for a mixture of experts of a family that is not known here."""
    if config.experts and config.model_type not in EXPERT_FAMILIES:
        return None
    attention = _attention(config)
    plain = config.model_type in PLAIN_MLP
    dense = [(config.hidden, config.inner)] * (2 if plain else 3)
    dense_rest = config.inner + config.hidden if plain else 0
    norm = 2 * config.hidden if plain else config.hidden
    norms = 4 if config.model_type in _FOUR_NORMS else 2
    dense_layers = config.layers
    experts = experts_width = experts_rest = 0
    if config.experts:
        dense_layers = config.leading_dense_layers or 0
        experts, experts_width, experts_rest = _experts(config, config.experts)
    expert_layers = config.layers - dense_layers
    return Parameters(
        embeddings=_embeddings(config),
        matrices=config.layers * _elements(attention) + dense_layers * _elements(dense),
        experts=expert_layers * experts,
        rest=config.layers * (_attention_rest(config) + norms * norm)
        + dense_layers * dense_rest
        + expert_layers * experts_rest
        + norm,
        adapter_width=config.layers * _width(attention)
        + dense_layers * _width(dense)
        + expert_layers * experts_width
        + 2 * (config.vocab + config.hidden),
    )


def _elements(shapes: _Shapes) -> int:
    return sum(inputs * outputs for inputs, outputs in shapes)


def _width(shapes: _Shapes) -> int:
    return sum(inputs + outputs for inputs, outputs in shapes)


def _embeddings(config: ModelConfig) -> int:
    tables = config.vocab * config.hidden * (1 if config.tied else 2)
    if config.model_type in LEARNED_POSITIONS:
        rows = config.max_positions or ENGINE_DEFAULT_MAX_MODEL_LEN
        tables += (rows + LEARNED_POSITIONS[config.model_type]) * config.hidden
    return tables


def _attention(config: ModelConfig) -> _Shapes:
    """Of one layer."""
    if config.kv_lora_rank is not None:
        return _latent_attention(config, config.kv_lora_rank)
    hidden, query = config.hidden, config.heads * config.attention_head_dim
    key = config.key_value_heads * config.attention_head_dim
    return [(hidden, query), (hidden, key), (hidden, key), (query, hidden)]


def _latent_attention(config: ModelConfig, rank: int) -> _Shapes:
    hidden, q_rank = config.hidden, config.q_lora_rank
    query = config.heads * (config.qk_nope_head_dim + config.qk_rope_head_dim)
    values = config.heads * (config.v_head_dim or config.attention_head_dim)
    return [
        *([(hidden, query)] if q_rank is None else [(hidden, q_rank), (q_rank, query)]),
        (hidden, rank + config.qk_rope_head_dim),
        (rank, config.heads * config.qk_nope_head_dim + values),
        (values, hidden),
    ]


def _attention_rest(config: ModelConfig) -> int:
    """Of one layer: norms and biases."""
    if config.kv_lora_rank is not None:
        return config.kv_lora_rank + (config.q_lora_rank or 0)
    query = config.heads * config.attention_head_dim
    key_value = 2 * config.key_value_heads * config.attention_head_dim
    rest = 0
    if config.model_type in PLAIN_MLP:
        rest = query + key_value + config.hidden
    elif config.attention_bias or config.model_type in _QKV_BIAS:
        rest = query + key_value
        if config.attention_bias and config.model_type in _OUTPUT_BIAS_TOO:
            rest += config.hidden
    if config.model_type in _HEAD_NORMS:
        rest += 2 * config.attention_head_dim
    if config.model_type == "olmoe":
        rest += query + key_value // 2
    if config.model_type == "gpt_oss":
        rest += config.heads  # attention sinks
    return rest


def _experts(config: ModelConfig, count: int) -> tuple[int, int, int]:
    """Of one layer with experts: their matrices' elements and width, and routers, gates and
    biases."""
    hidden = config.hidden
    inner = config.expert_intermediate or config.inner
    shared = config.shared_intermediate or (config.shared_experts or 0) * inner
    rest = hidden * count
    if config.shared_intermediate:
        rest += hidden  # the gate of the shared expert
    if config.model_type == "gpt_oss":
        rest += count + count * (2 * inner + hidden)
    each, common = [(hidden, inner)] * 3, [(hidden, shared)] * (3 if shared else 0)
    elements = count * _elements(each) + _elements(common)
    return elements, count * _width(each) + _width(common), rest
