"""PURE: the fields of a model's config.json that decide its size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

ENGINE_DEFAULT_MAX_MODEL_LEN = 2048
"""Tokens; what vLLM assumes where neither configuration nor arguments give a length."""

TIED_BY_DEFAULT = frozenset(
    {"opt", "gpt2", "gpt_bigcode", "falcon", "bloom", "gemma", "gemma2", "gemma3", "gemma3_text"}
    | {"starcoder2", "minicpm3"}
)
"""``model_type``s whose embedding doubles as output layer unless the configuration denies it
(the defaults of the configuration classes in Hugging Face transformers)."""
SIZED_FAMILIES = frozenset(
    {"deepseek_v2", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_oss", "llama"}
    | {"mistral", "mixtral", "olmoe", "opt", "phi3", "qwen2", "qwen3", "starcoder2"}
)
"""``model_type``s of which every published configuration has the fields below: one that lacks a
field is damaged."""
WINDOW_PATTERNS = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4}
"""``model_type``s of which every n-th layer keeps all tokens and the others have a window (the same
classes' defaults)."""
WINDOW_UNLESS_DENIED = frozenset({"mistral", "mixtral", "phi3", "starcoder2", "gpt_oss"})
"""``model_type``s whose ``sliding_window`` holds without ``use_sliding_window``."""


class ModelError(Exception):
    """A model that cannot be sized. ``reason``: ModelNotFound, ModelConfigInvalid or
    EngineArgsInvalid; ``message`` names file and field, cause and remedy."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class Tensor:
    """One entry of a safetensors header."""

    name: str
    dtype: str
    elements: int
    dimensions: int = 1


def _of_each_layer(value: object) -> bool:
    """Whether this is a list of counts, one for each layer."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(type(count) is int and count > 0 for count in value)
    )


def _largest(value: Any) -> Any:
    return max(value) if _of_each_layer(value) else value


_Count = Annotated[int, Field(gt=0, strict=True)]
_Amount = Annotated[int, Field(ge=0, strict=True)]


class ModelConfig(BaseModel):
    """A model's shape, under the names in use."""

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
    attention_bias: bool | None = None
    q_lora_rank: _Count | None = None
    kv_lora_rank: _Count | None = None
    qk_rope_head_dim: _Amount = 0
    qk_nope_head_dim: _Amount = 0
    v_head_dim: _Amount = 0
    intermediate: Annotated[_Count | None, BeforeValidator(_largest)] = Field(
        None, validation_alias=AliasChoices("intermediate_size", "ffn_dim", "n_inner")
    )
    vocab: _Count = Field(validation_alias="vocab_size")
    max_positions: _Count | None = Field(
        None, validation_alias=AliasChoices("max_position_embeddings", "n_positions", "seq_length")
    )
    original_positions: _Count | None = Field(
        None, validation_alias="original_max_position_embeddings"
    )
    """What a model whose sequences were lengthened was first made for."""
    rope_scaling: dict[str, Any] | None = Field(
        None, validation_alias=AliasChoices("rope_scaling", "rope_parameters")
    )
    tie_word_embeddings: bool | None = None
    experts: _Amount | None = Field(
        None,
        validation_alias=AliasChoices("num_local_experts", "num_experts", "n_routed_experts"),
    )
    """None or zero: no mixture of experts."""
    experts_per_token: _Amount | None = Field(None, validation_alias="num_experts_per_tok")
    expert_intermediate: _Count | None = Field(None, validation_alias="moe_intermediate_size")
    shared_experts: _Amount | None = Field(None, validation_alias="n_shared_experts")
    shared_intermediate: _Amount | None = Field(
        None, validation_alias="shared_expert_intermediate_size"
    )
    leading_dense_layers: _Amount | None = Field(None, validation_alias="first_k_dense_replace")
    sliding_window: int | None = None
    use_sliding_window: bool | None = None
    max_window_layers: _Amount | None = None
    sliding_window_pattern: int | str | None = None
    layer_types: tuple[str, ...] | None = None
    quantization: dict[str, Any] | None = Field(None, validation_alias="quantization_config")

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

    @property
    def inner(self) -> int:
        """Width of the dense MLP."""
        return self.intermediate or 4 * self.hidden

    @property
    def windowed_layers(self) -> int:
        """How many layers keep only the latest ``sliding_window`` tokens. A kind of layer that is
        not known here counts as one that keeps all."""
        if not self.sliding_window or self.sliding_window < 0 or self.use_sliding_window is False:
            return 0
        if self.layer_types is not None:
            return self.layer_types.count("sliding_attention")
        pattern = self.sliding_window_pattern or WINDOW_PATTERNS.get(self.model_type)
        if isinstance(pattern, int) and pattern > 0:
            return self.layers - self.layers // pattern
        if self.use_sliding_window and self.max_window_layers is not None:
            return max(0, self.layers - self.max_window_layers)
        return self.layers if self.model_type in WINDOW_UNLESS_DENIED else 0

    @property
    def _rope_kind(self) -> Any:
        scaling = self.rope_scaling or {}
        return scaling.get("rope_type", scaling.get("type"))

    @property
    def longest_sequence(self) -> int:
        """Tokens; rope scaling stretches what the model was made for, as in vLLM.

        By ``yarn`` vLLM stretches only in some of its versions: the longer counts.
        """
        length = self.max_positions or ENGINE_DEFAULT_MAX_MODEL_LEN
        if "gemma3" in self.model_type:
            return length  # stretched already
        scaling, kind = self.rope_scaling or {}, self._rope_kind
        factor = scaling.get("factor")
        if kind not in {"linear", "dynamic", "yarn"} or not isinstance(factor, int | float):
            return length
        if not math.isfinite(factor):
            return length
        original = scaling.get("original_max_position_embeddings")
        if kind == "yarn" and isinstance(original, int):
            length = original
        return max(length, int(length * factor))

    @property
    def usual_longest_sequence(self) -> int:
        """Tokens where the engine's arguments name none: what a model with LongRoPE was first made
        for, since vLLM spares short sequences the loss that longer ones would cost them."""
        if self._rope_kind in {"longrope", "su"}:
            return self.original_positions or self.longest_sequence
        return self.longest_sequence


def parse_config(document: Mapping[str, Any], source: str) -> ModelConfig | None:
    """``config.json`` as parsed JSON; ``source`` names the file in errors.

    A multimodal model keeps its language model under ``text_config`` and may leave fields to the
    defaults of its class, which only the engine knows; other families have fields of their own, or
    one value for each layer: then None. Raises ModelError (ModelConfigInvalid) with every field
    that is missing or wrong.
    """
    text = document.get("text_config")
    nested = isinstance(text, Mapping)
    if isinstance(text, Mapping):
        quantization = document.get("quantization_config")
        document = {"quantization_config": quantization, **text}
    try:
        config = ModelConfig.model_validate(document)
    except ValidationError as error:
        family = document.get("model_type")
        foreign = isinstance(family, str) and family not in {*SIZED_FAMILIES, ""}
        if (nested or foreign) and all(map(_only_unknown, error.errors())):
            return None
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()
        )
        raise _invalid(source, faults) from None
    if config.attention_head_dim == 0:
        raise _invalid(
            source, f"hidden_size {config.hidden} leaves nothing for each of {config.heads} heads"
        )
    return config


def _invalid(source: str, faults: str) -> ModelError:
    return ModelError(
        "ModelConfigInvalid",
        f"{source}: {faults}. Use the config.json that was published with the model "
        "(a decoder-only language model in Hugging Face format).",
    )


def _only_unknown(fault: ErrorDetails) -> bool:
    return fault["type"] == "missing" or _of_each_layer(fault["input"])
