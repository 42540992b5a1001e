"""Memory that a replica takes beside its model: adapters, and models that draft tokens."""

from __future__ import annotations

import pytest

from footprints import known, sized
from published_models import LLAMA_3_2_1B as LLAMA
from slm_worker.planning.footprint import Tensor


class TestAdapters:
    """LoRA: for each matrix, slot and rank vLLM reserves a row of its inputs and one of its
    outputs, whether an adapter is loaded or not."""

    QUERY, KEY, INNER, VOCAB = 2048, 512, 8192, 128256
    LAYER = (
        2 * (QUERY + QUERY)  # query and output
        + 2 * (QUERY + KEY)
        + 3 * (QUERY + INNER)
    )
    RANK_BYTES = 2 * (16 * LAYER + 2 * (VOCAB + QUERY))

    @pytest.mark.parametrize(
        ("args", "ranks"),
        [
            (["--enable-lora"], 16),
            (["--enable-lora", "--max-loras", "8", "--max-lora-rank=64"], 8 * 64),
            (["--enable-lora", "--no-enable-lora"], 0),
            (["--max-loras", "8"], 0),
        ],
        ids=str,
    )
    def test_take_memory_beside_the_weights(self, args: list[str], ranks: int) -> None:
        taken_bytes = known(LLAMA, *args).weights_bytes - known(LLAMA).weights_bytes
        assert taken_bytes == ranks * self.RANK_BYTES

    def test_change_each_expert(self) -> None:
        experts = {**LLAMA, "model_type": "mixtral", "num_local_experts": 8}
        more_bytes = (
            known(experts, "--enable-lora").weights_bytes - known(experts).weights_bytes
        ) - 16 * self.RANK_BYTES
        assert more_bytes == 16 * 2 * 16 * 7 * 3 * (self.QUERY + self.INNER)

    def test_of_matrices_that_are_not_known_are_unknown(self) -> None:
        config, tensors = {**LLAMA, "num_local_experts": 8}, [Tensor("a", "F16", 7)]
        assert sized(config, "--enable-lora", tensors=tensors) is None


@pytest.mark.parametrize(
    ("args", "unknown"),
    [
        (['--speculative-config={"method": "ngram", "num_speculative_tokens": 4}'], False),
        (['--speculative-config={"model": "[ngram]"}'], False),
        (["-sc", '{"method": "suffix"}'], False),
        (["--spec-method", "ngram_gpu"], False),
        (["--speculative-config", "no JSON"], False),
        pytest.param(["--speculative-config", "[" * 100_000], False, id="deep JSON"),
        (["--speculative-config", '{"method": ["ngram"]}'], True),
        (["--speculative-config", '{"model": {"name": "org/small"}}'], True),
        (['--speculative_config={"model": "org/small"}'], True),
        (["-sc", '{"method": "eagle3", "model": "org/head"}'], True),
        (["--speculative-config", '{"method": "mtp"}'], True),
        (["--spec-model", "org/small"], True),
        (["--speculative-config.model", "org/small"], True),
    ],
    ids=str,
)
def test_what_a_replica_with_a_draft_model_needs_is_unknown(args: list[str], unknown: bool) -> None:
    assert (sized(LLAMA, *args) is None) == unknown


@pytest.mark.parametrize(
    ("whole", "entry", "unknown"),
    [
        ('{"method": "ngram"}', ["--speculative-config.method", "eagle3"], True),
        ('{"method": "ngram"}', ["--speculative-config.model", "org/small"], True),
        ('{"method": "eagle3", "model": "org/head"}', ["-sc.method", "ngram"], False),
        ('{"method": "eagle3"}', ["--speculative-config.num_speculative_tokens=3"], False),
        ("{}", ["--speculative-config.method", '"ngram"'], False),
        ("{}", ["--speculative-config.method", "null"], False),
    ],
    ids=str,
)
@pytest.mark.parametrize("first", ["whole", "entry"])
def test_entries_replace_the_whole_object_as_in_vllm(
    whole: str, entry: list[str], unknown: bool, first: str
) -> None:
    object_args = ["--speculative-config", whole]
    args = object_args + entry if first == "whole" else entry + object_args
    assert (sized(LLAMA, *args) is None) == unknown
