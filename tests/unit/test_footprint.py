"""Memory that published models need, against figures computed by hand from their configurations."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from slm_worker.planning.footprint import (
    ModelError,
    ModelFootprint,
    Tensor,
    estimated_parameters,
    footprint,
    parse_config,
)


class Published(NamedTuple):
    """A model as its authors published it.

    ``parameters`` as on the model's page on the Hugging Face hub, which counts the checkpoint's
    tensors; ``kv_bytes_per_token`` = 2 (K and V) x layers x KV heads x head size x 2 bytes.
    """

    name: str
    config: dict[str, Any]
    parameters: int
    kv_bytes_per_token: int
    max_model_len: int


MODELS = [
    Published(  # facebook/opt-1.3b; Zhang et al. 2022, table 1
        "OPT-1.3B",
        {
            "model_type": "opt",
            "num_hidden_layers": 24,
            "hidden_size": 2048,
            "ffn_dim": 8192,
            "num_attention_heads": 32,
            "vocab_size": 50272,
            "max_position_embeddings": 2048,
            "word_embed_proj_dim": 2048,
        },
        1_315_758_080,
        2 * 24 * 32 * 64 * 2,
        2048,
    ),
    Published(  # openai-community/gpt2
        "GPT-2",
        {
            "model_type": "gpt2",
            "n_layer": 12,
            "n_embd": 768,
            "n_head": 12,
            "n_inner": None,
            "vocab_size": 50257,
            "n_positions": 1024,
        },
        124_439_808,
        2 * 12 * 12 * 64 * 2,
        1024,
    ),
    Published(  # HuggingFaceTB/SmolLM2-135M
        "SmolLM2-135M",
        {
            "model_type": "llama",
            "num_hidden_layers": 30,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "vocab_size": 49152,
            "max_position_embeddings": 8192,
            "rope_scaling": None,
            "tie_word_embeddings": True,
        },
        134_515_008,
        2 * 30 * 3 * 64 * 2,
        8192,
    ),
    Published(  # meta-llama/Llama-3.2-1B
        "Llama-3.2-1B",
        {
            "model_type": "llama",
            "num_hidden_layers": 16,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "vocab_size": 128256,
            "max_position_embeddings": 131072,
            "rope_scaling": {
                "factor": 32.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
            "tie_word_embeddings": True,
        },
        1_235_814_400,
        2 * 16 * 8 * 64 * 2,
        131072,
    ),
    Published(  # Qwen/Qwen2.5-0.5B
        "Qwen2.5-0.5B",
        {
            "model_type": "qwen2",
            "num_hidden_layers": 24,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "max_position_embeddings": 32768,
            "tie_word_embeddings": True,
        },
        494_032_768,
        2 * 24 * 2 * 64 * 2,
        32768,
    ),
    Published(  # meta-llama/Llama-2-7b-hf
        "Llama-2-7B",
        {
            "model_type": "llama",
            "num_hidden_layers": 32,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "vocab_size": 32000,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": False,
        },
        6_738_415_616,
        2 * 32 * 32 * 128 * 2,
        4096,
    ),
    Published(  # google/gemma-2b: multi-query attention, heads wider than hidden / heads
        "Gemma-2B",
        {
            "model_type": "gemma",
            "num_hidden_layers": 18,
            "hidden_size": 2048,
            "intermediate_size": 16384,
            "num_attention_heads": 8,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "vocab_size": 256000,
            "max_position_embeddings": 8192,
        },
        2_506_172_416,
        2 * 18 * 1 * 256 * 2,
        8192,
    ),
]
LLAMA = MODELS[3].config


def sized(
    config: dict[str, Any], *args: str, tensors: list[Tensor] | None = None
) -> ModelFootprint | None:
    parsed = parse_config(config, "config.json")
    assert parsed is not None
    return footprint(parsed, tensors, args)


def known(
    config: dict[str, Any], *args: str, tensors: list[Tensor] | None = None
) -> ModelFootprint:
    result = sized(config, *args, tensors=tensors)
    assert result is not None
    return result


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_published_models(model: Published) -> None:
    result = known(model.config)
    assert result.kv_bytes_per_token == model.kv_bytes_per_token
    assert result.max_model_len == model.max_model_len
    assert result.weights_bytes == pytest.approx(2 * model.parameters, rel=0.001)


@pytest.mark.parametrize(
    "model", [m for m in MODELS if m.name != "Qwen2.5-0.5B"], ids=lambda model: model.name
)
def test_the_estimate_is_exact_where_it_promises_to_be(model: Published) -> None:
    parsed = parse_config(model.config, "config.json")
    assert parsed is not None
    assert estimated_parameters(parsed) == model.parameters


def test_float32_doubles_weights_and_kv_cache() -> None:
    half, full = known(LLAMA), known(LLAMA, "--dtype", "float32")
    assert full.weights_bytes == 2 * half.weights_bytes
    assert full.kv_bytes_per_token == 2 * half.kv_bytes_per_token


def test_an_fp8_kv_cache_takes_one_byte_an_element() -> None:
    result = known(LLAMA, "--kv_cache_dtype=fp8")
    assert 2 * result.kv_bytes_per_token == known(LLAMA).kv_bytes_per_token


@pytest.mark.parametrize(
    ("args", "tokens"),
    [
        (["--max-model-len", "512"], 512),
        (["--max-model-len=4096"], 4096),
        (["--max_model_len=4096"], 4096),
        (["--max-model-len", "2k"], 2000),
        (["--max-model-len", "2K"], 2048),
        (["--max-model-len", "1.5K"], 1536),
        (["--max-model-len", "64", "--max-model-len", "32"], 32),
        (["--max-model-len", "auto"], 131072),
        (["--enforce-eager", "--seed", "1"], 131072),
    ],
    ids=str,
)
def test_max_model_len_of_the_arguments(args: list[str], tokens: int) -> None:
    assert known(LLAMA, *args).max_model_len == tokens


@pytest.mark.parametrize(
    "args",
    [
        ["--max-model-len", "many"],
        ["--max-model-len", "0"],
        ["--max-model-len", "-5"],
        ["--max-model-len"],
        ["--max-model-len", "infk"],
        ["--max-model-len", "nank"],
        ["--dtype", "int3"],
        ["--kv-cache-dtype=float64"],
    ],
    ids=" ".join,
)
def test_arguments_that_make_no_sense_are_refused_by_name(args: list[str]) -> None:
    with pytest.raises(ModelError, match=args[0].partition("=")[0]) as caught:
        known(LLAMA, *args)
    assert caught.value.reason == "EngineArgsInvalid"


@pytest.mark.parametrize(
    ("scaling", "tokens"),
    [
        ({"rope_type": "linear", "factor": 2.0}, 8192),
        ({"type": "dynamic", "factor": 4}, 16384),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}, 8192),
        ({"rope_type": "llama3", "factor": 8.0}, 4096),
        ({"rope_type": "linear", "factor": float("nan")}, 4096),
        ({"rope_type": "default"}, 4096),
    ],
)
def test_rope_scaling_stretches_the_longest_sequence(scaling: dict[str, Any], tokens: int) -> None:
    config = {**LLAMA, "max_position_embeddings": 4096, "rope_scaling": scaling}
    assert known(config).max_model_len == tokens


class TestTensors:
    def test_floats_are_converted_and_quantised_tensors_stay(self) -> None:
        tensors = [
            Tensor("a", "F32", 100),
            Tensor("b", "BF16", 100),
            Tensor("c", "F8_E4M3", 100),
            Tensor("d", "I32", 100),
        ]
        assert known(LLAMA, tensors=tensors).weights_bytes == 200 + 200 + 100 + 400

    def test_a_tied_output_layer_is_not_loaded_twice(self) -> None:
        tensors = [
            Tensor("model.embed_tokens.weight", "F16", 10),
            Tensor("lm_head.weight", "F16", 10),
        ]
        assert known(LLAMA, tensors=tensors).weights_bytes == 20
        untied = {**LLAMA, "tie_word_embeddings": False}
        assert known(untied, tensors=tensors).weights_bytes == 40


class TestAttentionKinds:
    def test_falcon_is_multi_query_whatever_its_kv_heads_say(self) -> None:
        config = {
            "model_type": "falcon",
            "num_hidden_layers": 32,
            "hidden_size": 4544,
            "num_attention_heads": 71,
            "num_kv_heads": 71,
            "multi_query": True,
            "new_decoder_architecture": False,
            "vocab_size": 65024,
        }
        result = known(config)
        assert result.kv_bytes_per_token == 2 * 32 * 64 * 2
        assert result.max_model_len == 2048

    def test_latent_attention_keeps_one_compressed_vector(self) -> None:
        config = {**LLAMA, "kv_lora_rank": 512, "qk_rope_head_dim": 64}
        assert known(config).kv_bytes_per_token == 16 * (512 + 64) * 2


def test_experts_without_tensors_are_unknown() -> None:
    config = {**LLAMA, "num_local_experts": 8}
    assert sized(config) is None
    assert known(config, tensors=[Tensor("a", "F16", 7)]).weights_bytes == 14


class TestConfigs:
    def test_every_fault_is_named_with_its_field_and_file(self) -> None:
        broken = {**LLAMA, "hidden_size": "big", "num_attention_heads": 0}
        del broken["vocab_size"]
        with pytest.raises(ModelError) as caught:
            parse_config(broken, "/models/x/config.json")
        assert caught.value.reason == "ModelConfigInvalid"
        for part in ("/models/x/config.json", "hidden_size", "num_attention_heads", "vocab_size"):
            assert part in caught.value.message

    def test_a_multimodal_model_is_sized_by_its_language_model(self) -> None:
        assert known({"model_type": "x", "text_config": LLAMA}) == known(LLAMA)

    def test_a_multimodal_model_that_relies_on_defaults_is_unknown(self) -> None:
        assert parse_config({"text_config": {"hidden_size": 2560}}, "config.json") is None

    def test_a_multimodal_model_with_a_wrong_field_is_refused(self) -> None:
        with pytest.raises(ModelError, match="hidden_size"):
            parse_config({"text_config": {"hidden_size": -1}}, "config.json")
