"""PURE: how much memory a model needs, from its published configuration and the engine's arguments.

The sums describe decoder-only transformers as vLLM serves them. Where a model can do with less
(sliding windows, state-space layers), the result is an upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

ENGINE_DEFAULT_MAX_MODEL_LEN = 2048
"""Tokens; what vLLM assumes where neither configuration nor arguments give a length."""

TIED_BY_DEFAULT = frozenset(
    {"opt", "gpt2", "gpt_bigcode", "falcon", "bloom", "gemma", "gemma2", "gemma3", "gemma3_text"}
)
"""``model_type``s whose embedding doubles as output layer unless the configuration denies it
(the defaults of the configuration classes in Hugging Face transformers)."""
PLAIN_MLP = frozenset(
    {"opt", "gpt2", "gpt_bigcode", "gpt_neox", "gptj", "phi", "falcon", "bloom", "starcoder2"}
)
"""``model_type``s with two matrices in the MLP and biases, instead of three (gated) without."""
LEARNED_POSITIONS = {"opt": 2, "gpt2": 0, "gpt_bigcode": 0}
"""``model_type``s with a learned position embedding: rows beyond the longest sequence."""

_DTYPE_BYTES = {"auto": 2, "half": 2, "float16": 2, "bfloat16": 2, "float": 4, "float32": 4}
"""``--dtype``; ``auto`` serves float32 checkpoints in 16 bits too."""
_KV_DTYPE_BYTES = {"float16": 2, "bfloat16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}
_CHECKPOINT_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""safetensors types that the engine converts to ``--dtype``; others (quantised) stay as stored."""
_STORED_BITS = {"I64": 64, "U64": 64, "I32": 32, "U32": 32, "I16": 16, "U16": 16, "F4": 4}
_LENGTH_UNITS = {"k": 10**3, "m": 10**6, "K": 2**10, "M": 2**20}


class ModelError(Exception):
    """A model that cannot be sized. ``reason``: ModelNotFound, ModelConfigInvalid or
    EngineArgsInvalid; ``message`` names file and field, cause and remedy."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class ModelFootprint:
    """Memory that one replica of a model needs, as the engine's arguments set it."""

    weights_bytes: int
    kv_bytes_per_token: int
    max_model_len: int
    """Tokens of the longest sequence, prompt and output together."""


@dataclass(frozen=True)
class Tensor:
    """One entry of a safetensors header."""

    name: str
    dtype: str
    elements: int


_Count = Annotated[int, Field(gt=0, strict=True)]


class ModelConfig(BaseModel):
    """The fields of a model's config.json that decide its size, under the names in use."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    model_type: str = ""
    layers: _Count = Field(
        validation_alias=AliasChoices("num_hidden_layers", "n_layer", "num_layers")
    )
    hidden: _Count = Field(validation_alias=AliasChoices("hidden_size", "n_embd", "d_model"))
    heads: _Count = Field(validation_alias=AliasChoices("num_attention_heads", "n_head"))
    kv_heads: _Count | None = Field(
        None, validation_alias=AliasChoices("num_key_value_heads", "num_kv_heads")
    )
    multi_query: bool = False
    new_decoder_architecture: bool = False
    head_dim: _Count | None = None
    kv_lora_rank: _Count | None = None
    qk_rope_head_dim: Annotated[int, Field(ge=0, strict=True)] = 0
    intermediate: _Count | None = Field(
        None, validation_alias=AliasChoices("intermediate_size", "ffn_dim", "n_inner")
    )
    vocab: _Count = Field(validation_alias="vocab_size")
    max_positions: _Count | None = Field(
        None, validation_alias=AliasChoices("max_position_embeddings", "n_positions", "seq_length")
    )
    rope_scaling: dict[str, Any] | None = Field(
        None, validation_alias=AliasChoices("rope_scaling", "rope_parameters")
    )
    tie_word_embeddings: bool | None = None
    experts: _Count | None = Field(
        None,
        validation_alias=AliasChoices("num_local_experts", "num_experts", "n_routed_experts"),
    )

    @property
    def tied(self) -> bool:
        if self.tie_word_embeddings is None:
            return self.model_type in TIED_BY_DEFAULT
        return self.tie_word_embeddings

    @property
    def attention_head_dim(self) -> int:
        return self.head_dim or self.hidden // self.heads

    @property
    def key_value_heads(self) -> int:
        if self.multi_query and not self.new_decoder_architecture:
            return 1
        return self.kv_heads or self.heads


def parse_config(document: Mapping[str, Any], source: str) -> ModelConfig | None:
    """``config.json`` as parsed JSON; ``source`` names the file in errors.

    A multimodal model keeps its language model under ``text_config`` and may leave fields to the
    defaults of its class, which only the engine knows: then None. Raises ModelError
    (ModelConfigInvalid) with every field that is missing or wrong.
    """
    text = document.get("text_config")
    nested = isinstance(text, Mapping)
    try:
        return ModelConfig.model_validate(text if nested else document)
    except ValidationError as error:
        if nested and all(fault["type"] == "missing" for fault in error.errors()):
            return None
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()
        )
        raise ModelError(
            "ModelConfigInvalid",
            f"{source}: {faults}. Use the config.json that was published with the model "
            "(a decoder-only language model in Hugging Face format).",
        ) from None


def footprint(
    config: ModelConfig, tensors: Sequence[Tensor] | None, args: Sequence[str]
) -> ModelFootprint | None:
    """What one replica needs.

    ``tensors`` are the checkpoint's; None estimates the weights from ``config``, which gives None
    for a mixture of experts, whose shapes differ from family to family. ``args`` are the engine's:
    ``--dtype``, ``--kv-cache-dtype`` and ``--max-model-len`` count. Raises ModelError
    (EngineArgsInvalid).
    """
    options = _options(args)
    dtype_bytes = _choice(options, "dtype", _DTYPE_BYTES, default="auto")
    kv_dtype_bytes = _choice(
        options, "kv-cache-dtype", {"auto": dtype_bytes, **_KV_DTYPE_BYTES}, default="auto"
    )
    if tensors is not None:
        weights_bytes = _stored_bytes(tensors, config.tied, dtype_bytes)
    elif config.experts is None:
        weights_bytes = estimated_parameters(config) * dtype_bytes
    else:
        return None
    return ModelFootprint(
        weights_bytes=weights_bytes,
        kv_bytes_per_token=_kv_elements_per_token(config) * kv_dtype_bytes,
        max_model_len=_max_model_len(options, config),
    )


def estimated_parameters(config: ModelConfig) -> int:
    """Parameters of a dense decoder. Exact for OPT, GPT-2 and the Llama family; where a gated
    family has biases or extra norms it is short by less than 0.1 %."""
    hidden, inner = config.hidden, config.intermediate or 4 * config.hidden
    query = config.heads * config.attention_head_dim
    key_value = 2 * config.key_value_heads * config.attention_head_dim
    attention = hidden * (query + key_value) + query * hidden
    if config.model_type in PLAIN_MLP:
        biases = query + key_value + hidden + inner + hidden
        layer = attention + 2 * hidden * inner + biases + 4 * hidden
        final_norm = 2 * hidden
    else:
        layer = attention + 3 * hidden * inner + 2 * hidden
        final_norm = hidden
    embeddings = config.vocab * hidden * (1 if config.tied else 2)
    positions = 0
    if config.model_type in LEARNED_POSITIONS:
        rows = config.max_positions or ENGINE_DEFAULT_MAX_MODEL_LEN
        positions = (rows + LEARNED_POSITIONS[config.model_type]) * hidden
    return embeddings + positions + config.layers * layer + final_norm


def _stored_bytes(tensors: Sequence[Tensor], tied: bool, dtype_bytes: int) -> int:
    total_bits = 0
    for tensor in tensors:
        if tied and tensor.name == "lm_head.weight":
            continue  # a second copy of the embedding, which the engine does not load
        if tensor.dtype in _CHECKPOINT_FLOATS:
            bits = 8 * dtype_bytes
        else:
            bits = _STORED_BITS.get(tensor.dtype, 8)
        total_bits += tensor.elements * bits
    return -(-total_bits // 8)


def _kv_elements_per_token(config: ModelConfig) -> int:
    """Keys and values of all layers; latent attention (MLA) keeps one compressed vector instead."""
    if config.kv_lora_rank is not None:
        return config.layers * (config.kv_lora_rank + config.qk_rope_head_dim)
    return 2 * config.layers * config.key_value_heads * config.attention_head_dim


def _max_model_len(options: Mapping[str, str], config: ModelConfig) -> int:
    given = options.get("max-model-len", "auto")
    if given in {"auto", "-1"}:
        return _configured_length(config)
    digits, unit = (
        (given[:-1], _LENGTH_UNITS[given[-1]]) if given[-1:] in _LENGTH_UNITS else (given, 1)
    )
    try:
        length = int(float(digits) * unit) if unit > 1 else int(digits)
    except (ValueError, OverflowError):
        length = 0
    if length < 1:
        raise ModelError(
            "EngineArgsInvalid",
            f"engine.args: --max-model-len {given!r} is no token count: write a whole number such "
            "as 4096, or one with k, m (thousands) or K, M (binary).",
        )
    return length


def _configured_length(config: ModelConfig) -> int:
    """The longest sequence by configuration; rope scaling stretches it as vLLM does."""
    length = config.max_positions or ENGINE_DEFAULT_MAX_MODEL_LEN
    scaling = config.rope_scaling or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    factor = scaling.get("factor")
    if kind not in {"linear", "dynamic", "yarn"} or not isinstance(factor, int | float):
        return length
    if not math.isfinite(factor):
        return length
    original = scaling.get("original_max_position_embeddings")
    if kind == "yarn" and isinstance(original, int):
        length = original
    return max(length, int(length * factor))


def _options(args: Sequence[str]) -> dict[str, str]:
    """``--name value`` and ``--name=value``; names with _ for - as vLLM takes them; last wins."""
    options: dict[str, str] = {}
    for index, arg in enumerate(args):
        if not arg.startswith("--"):
            continue
        name, equals, value = arg[2:].partition("=")
        if not equals:
            value = args[index + 1] if index + 1 < len(args) else ""
        options[name.replace("_", "-")] = value
    return options


def _choice(
    options: Mapping[str, str], name: str, bytes_of: Mapping[str, int], default: str
) -> int:
    value = options.get(name, default)
    if value not in bytes_of:
        raise ModelError(
            "EngineArgsInvalid",
            f"engine.args: --{name} {value!r} is unknown: use one of {', '.join(bytes_of)}.",
        )
    return bytes_of[value]
