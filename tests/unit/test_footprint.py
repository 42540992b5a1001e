"""Memory that models need, against what their authors published and what engines take."""

from __future__ import annotations

from typing import Any

import pytest

from footprints import known, sized
from published_models import LLAMA_2_7B, LLAMA_3_2_1B, MODELS, Published
from slm_worker.planning.footprint import (
    ModelError,
    Tensor,
    parse_config,
)
from slm_worker.planning.parameters import count_parameters

LLAMA = LLAMA_3_2_1B
APPROXIMATE = {"Falcon-7B"}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_published_models(model: Published) -> None:
    result = known(model.config)
    assert result.kv_bytes_per_token == model.kv_bytes_per_token
    assert result.max_model_len == model.max_model_len
    published_bytes = model.weights_bytes or 2 * model.parameters
    assert result.weights_bytes == pytest.approx(published_bytes, rel=0.003)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_parameters_are_counted_exactly_where_the_family_is_known(model: Published) -> None:
    parsed = parse_config(model.config, "config.json")
    assert parsed is not None
    counts = count_parameters(parsed)
    assert counts is not None
    tolerance = 0.001 if model.name in APPROXIMATE else 0
    assert counts.total == pytest.approx(model.parameters, rel=tolerance, abs=0)


def test_float32_doubles_weights_and_kv_cache() -> None:
    half, full = known(LLAMA), known(LLAMA, "--dtype", "float32")
    assert full.weights_bytes == 2 * half.weights_bytes
    assert full.kv_bytes_per_token == 2 * half.kv_bytes_per_token


@pytest.mark.parametrize(
    ("args", "element_bytes"),
    [
        (["--kv_cache_dtype=fp8"], 1),
        (["--kv-cache-dtype", "fp8_e5m2"], 1),
        (["--kv-cache-dtype", "bfloat16", "--dtype", "float32"], 2),
        (["--kv-cache-dtype", "auto", "--dtype", "float32"], 4),
        (["--kv-cache-dtype", "fp8_ds_mla"], 2),
        (["--kv-cache-dtype", "int8_per_token_head"], 2),
        (["--kv-cache-dtype", "one that comes later"], 2),
        (["--kv-cache-dtype", "fp8", "--kv-cache-dtype-skip-layers", "0", "1"], 2),
    ],
    ids=str,
)
def test_an_element_of_the_kv_cache_takes_as_many_bytes_or_fewer(
    args: list[str], element_bytes: int
) -> None:
    assert 2 * known(LLAMA, *args).kv_bytes_per_token == (
        element_bytes * known(LLAMA).kv_bytes_per_token
    )


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
    ("short", "full"),
    [
        (["--max-model=8192"], ["--max-model-len=8192"]),
        (["--max_model", "8192"], ["--max-model-len", "8192"]),
        (["--enf"], ["--enforce-eager"]),
        (["--no-enable-chunked"], ["--no-enable-chunked-prefill"]),
        (["--speculative.method", "mtp"], ["--speculative-config.method", "mtp"]),
        (["-sc.method", "mtp"], ["--speculative-config.method", "mtp"]),
        (["--kv-cache-dtype", "fp8"], ["--kv-cache-dtype=fp8"]),
        (["--max-lora", "8", "--enable-lora"], ["--enable-lora"]),
    ],
    ids=str,
)
def test_arguments_may_be_shortened_as_long_as_they_tell_which(
    short: list[str], full: list[str]
) -> None:
    assert sized(LLAMA, *short) == sized(LLAMA, *full) != sized(LLAMA)


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
        pytest.param(["--max-model-len", "9" * 400], id="--max-model-len of 400 digits"),
        ["--block-size", "9e300k"],
        ["--max-loras=many", "--enable-lora"],
        pytest.param(["--max-loras=" + "9" * 5000, "--enable-lora"], id="loras of 5000 digits"),
        ["--max-lora-rank=0", "--enable-lora"],
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


LONGROPE = {
    **LLAMA,
    "model_type": "phi3",
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "rope_scaling": {"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]},
}
"""As Phi-3.5-mini and Phi-4-mini are published."""


@pytest.mark.parametrize(
    ("config", "args", "tokens"),
    [
        (LONGROPE, [], 4096),
        (LONGROPE, ["--max-model-len", "32768"], 32768),
        ({**LONGROPE, "rope_scaling": {"rope_type": "longrope"}}, [], 4096),
        ({**LONGROPE, "rope_scaling": {"type": "su"}}, [], 4096),
        ({**LONGROPE, "rope_scaling": None}, [], 131072),
        ({**LONGROPE, "original_max_position_embeddings": None}, [], 131072),
    ],
    ids=["usual", "asked", "rope_type", "older name", "no LongRoPE", "no original"],
)
def test_longrope_is_served_at_the_original_length_unless_more_is_asked(
    config: dict[str, Any], args: list[str], tokens: int
) -> None:
    assert known(config, *args).max_model_len == tokens


@pytest.mark.parametrize("family", ["gemma3_text", "gemma3n_text"])
def test_gemma_3_publishes_a_length_that_is_stretched_already(family: str) -> None:
    scaling = {"rope_type": "linear", "factor": 8.0}
    config = {**LLAMA, "model_type": family, "rope_scaling": scaling}
    assert known({"text_config": config}).max_model_len == LLAMA["max_position_embeddings"]


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

    def test_what_was_read_says_so(self) -> None:
        assert known(LLAMA).weights_source == "estimated"
        assert known(LLAMA, tensors=[Tensor("a", "F16", 7)]).weights_source == "read"

    def test_quantised_while_it_loads_matrices_shrink_and_the_rest_stays(self) -> None:
        tensors = [
            Tensor("model.embed_tokens.weight", "BF16", 1000, 2),
            Tensor("model.layers.0.self_attn.q_proj.weight", "BF16", 1000, 2),
            Tensor("model.layers.0.input_layernorm.weight", "BF16", 100, 1),
        ]
        args = ("--quantization", "fp8")
        assert known(LLAMA, *args, tensors=tensors).weights_bytes == 2000 + 1000 + 200


class TestQuantisedWeights:
    """Estimates from the configuration alone, of Llama-2-7B: 6,476,005,376 weights in matrices."""

    MATRICES = 6_476_005_376
    REST = 2 * (6_738_415_616 - MATRICES)

    @pytest.mark.parametrize(
        ("quantization", "bits"),
        [
            ({"quant_method": "awq", "bits": 4, "group_size": 128}, 4 + 20 / 128),
            ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 8),
            ({"quant_method": "fp8"}, 8),
            ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.5),
            ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8),
            (
                {
                    "quant_method": "compressed-tensors",
                    "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 64}}},
                },
                4.25,
            ),
            ({"quant_method": "not known here"}, 16),
            ({"quant_method": "compressed-tensors", "config_groups": {}}, 16),
        ],
        ids=str,
    )
    def test_by_the_checkpoint(self, quantization: dict[str, Any], bits: float) -> None:
        result = known({**LLAMA_2_7B, "quantization_config": quantization})
        assert result.weights_bytes == self.REST + round(self.MATRICES * bits / 8)

    @pytest.mark.parametrize(
        ("args", "bits"),
        [
            (["--quantization", "fp8"], 8),
            (["-q", "bitsandbytes"], 4.5),
            (["-q=fp8"], 8),
            ([], 16),
        ],
        ids=str,
    )
    def test_by_the_arguments(self, args: list[str], bits: float) -> None:
        result = known(LLAMA_2_7B, *args)
        assert result.weights_bytes == self.REST + round(self.MATRICES * bits / 8)

    def test_a_multimodal_model_keeps_its_quantisation_outside(self) -> None:
        quantization = {"quant_method": "fp8"}
        config = {"text_config": LLAMA_2_7B, "quantization_config": quantization}
        assert known(config) == known({**LLAMA_2_7B, "quantization_config": quantization})


def test_experts_of_an_unknown_family_without_tensors_are_unknown() -> None:
    config = {**LLAMA, "num_local_experts": 8}
    assert sized(config) is None
    assert known(config, tensors=[Tensor("a", "F16", 7)]).weights_bytes == 14


def test_any_number_of_experts_is_counted_at_once() -> None:
    experts = {**LLAMA, "model_type": "mixtral", "num_local_experts": 10**12}
    parsed = parse_config(experts, "config.json")
    assert parsed is not None
    counts = count_parameters(parsed)
    assert counts is not None
    assert counts.experts == 16 * 10**12 * 3 * 2048 * 8192


def test_no_experts_is_a_dense_model() -> None:
    assert known({**LLAMA, "num_experts": 0}) == known(LLAMA)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], (None, True, True)),
        (["--max-num-batched-tokens", "4k"], (4000, True, True)),
        (["--enforce-eager"], (None, False, True)),
        (["--enforce-eager", "--no-enforce-eager"], (None, True, True)),
        (["--no-enforce-eager", "--enforce_eager", "--no-enforce-eager"], (None, True, True)),
        (["--no-enable-chunked-prefill"], (None, True, False)),
    ],
    ids=str,
)
def test_what_the_arguments_say_of_steps_and_graphs(
    args: list[str], expected: tuple[int | None, bool, bool]
) -> None:
    runtime = known(LLAMA, *args).runtime
    found = (runtime.max_num_batched_tokens, runtime.cuda_graphs, runtime.chunked_prefill)
    assert found == expected


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

    @pytest.mark.parametrize(
        "config",
        [
            {"model_type": "falcon_mamba", "num_hidden_layers": 64, "hidden_size": 4096},
            {"model_type": "mpt", "n_layers": 32, "d_model": 4096, "vocab_size": 50432},
            {**LLAMA, "model_type": "openelm", "num_key_value_heads": [3, 3, 4]},
        ],
        ids=["no attention", "names of its own", "a value for each layer"],
    )
    def test_a_family_with_fields_of_its_own_is_unknown(self, config: dict[str, Any]) -> None:
        assert parse_config(config, "config.json") is None

    @pytest.mark.parametrize(
        ("config", "fault"),
        [
            ({"hidden_size": 2560}, "vocab_size"),
            ({"model_type": "llama", "hidden_size": 2560}, "vocab_size"),
            ({"model_type": "falcon_mamba", "hidden_size": -1}, "hidden_size"),
            ({"model_type": "mpt", "hidden_size": []}, "hidden_size"),
            ({"model_type": ["mpt"], "hidden_size": 2560}, "model_type"),
            ({**LLAMA, "num_key_value_heads": [3, 3, 4]}, "num_key_value_heads"),
            ({**LLAMA, "intermediate_size": [8192, -1]}, "intermediate_size"),
            ({**LLAMA, "hidden_size": 16, "head_dim": None}, "hidden_size 16 .* 32 heads"),
        ],
        ids=str,
    )
    def test_a_damaged_config_is_refused(self, config: dict[str, Any], fault: str) -> None:
        with pytest.raises(ModelError, match=fault):
            parse_config(config, "config.json")

    def test_of_mlps_that_differ_by_layer_the_widest_counts(self) -> None:
        widths = {**LLAMA, "intermediate_size": [4096, 8192, 4096]}
        assert known({"text_config": widths}) == known({**LLAMA, "intermediate_size": 8192})
