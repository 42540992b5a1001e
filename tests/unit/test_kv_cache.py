"""Memory of keys and values: attention kinds, windows, and how many sequences fit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from footprints import known
from published_models import GEMMA_3_1B, GPT_OSS_20B, LLAMA_3_2_1B, MISTRAL_7B
from slm_worker.gpu.base import DeviceIdentity
from slm_worker.planning.kv_cache import cache_bytes, capacity, sequence_bytes
from slm_worker.planning.memory import GIB, MIB, SlidingWindow

GPU = DeviceIdentity(kind="NVIDIA", name="GPU", memory_bytes=80 * GIB, simulated=False)
CPU = DeviceIdentity(kind="CPU", name="host", memory_bytes=64 * GIB, simulated=False)


class TestWindows:
    def test_mistral_0_1_keeps_the_last_4096_tokens_in_every_layer(self) -> None:
        mistral = known(MISTRAL_7B)
        layer = 2 * 8 * 128 * 2
        assert mistral.sliding == SlidingWindow(
            window_tokens=4096, windowed_bytes_per_token=32 * layer, full_bytes_per_token=0
        )
        # 4,095 kept tokens and two steps of 2,048, and one block in which the window may begin
        kept = 512 * 16 + 16
        assert sequence_bytes(mistral, GPU, 32768, 2048) == kept * 32 * layer

    def test_gpt_oss_has_a_window_in_every_other_layer(self) -> None:
        layer = 2 * 8 * 64 * 2
        assert known(GPT_OSS_20B).sliding == SlidingWindow(
            window_tokens=128, windowed_bytes_per_token=12 * layer, full_bytes_per_token=12 * layer
        )

    def test_gemma_3_pads_22_windowed_layers_to_6_groups_of_its_4_full_ones(self) -> None:
        layer = 2 * 1 * 256 * 2
        assert known(GEMMA_3_1B).sliding == SlidingWindow(
            window_tokens=512, windowed_bytes_per_token=24 * layer, full_bytes_per_token=4 * layer
        )

    def test_nearly_as_many_of_each_kind_are_padded_to_the_more_frequent(self) -> None:
        types = ["sliding_attention"] * 12 + ["full_attention"] * 13
        layer = 2 * 8 * 64 * 2
        config = {**GPT_OSS_20B, "num_hidden_layers": 25, "layer_types": types}
        assert known(config).sliding == SlidingWindow(
            window_tokens=128, windowed_bytes_per_token=13 * layer, full_bytes_per_token=13 * layer
        )

    @pytest.mark.parametrize(
        "change",
        [
            {"sliding_window": None},
            {"sliding_window": 0},
            {"use_sliding_window": False},
            {"layer_types": ["full_attention"] * 32},
        ],
        ids=str,
    )
    def test_no_window_where_the_configuration_says_so(self, change: dict[str, Any]) -> None:
        assert known({**MISTRAL_7B, **change}).sliding is None

    def test_a_window_that_the_family_does_not_use_unasked_is_none(self) -> None:
        assert known({**LLAMA_3_2_1B, "sliding_window": 4096}).sliding is None

    def test_qwen_slides_from_a_layer_on_where_it_is_asked_to(self) -> None:
        config = {
            **LLAMA_3_2_1B,
            "model_type": "qwen2",
            "sliding_window": 1024,
            "use_sliding_window": True,
            "max_window_layers": 12,
        }
        window = known(config).sliding
        assert window is not None
        assert window.full_bytes_per_token == 3 * window.windowed_bytes_per_token

    @pytest.mark.parametrize(
        ("args", "windows"),
        [
            (["--disable-hybrid-kv-cache-manager"], False),
            (["--kv-transfer-config", '{"kv_connector": "LMCacheConnectorV1"}'], False),
            (["--kv-transfer-config.kv_connector", "LMCacheConnectorV1"], False),
            (["--no-disable-hybrid-kv-cache-manager", "--kv-transfer-config={}"], True),
        ],
        ids=str,
    )
    def test_without_the_hybrid_manager_every_layer_keeps_everything(
        self, args: list[str], windows: bool
    ) -> None:
        gemma = known(GEMMA_3_1B, *args)
        assert (gemma.sliding is not None) == windows
        whole = 32768 * gemma.kv_bytes_per_token
        assert (sequence_bytes(gemma, GPU, 32768, 2048) == whole) == (not windows)

    def test_fp8_halves_windows_too(self) -> None:
        half, full = (
            cache_bytes(known(GEMMA_3_1B, *args), GPU, 1, 2048)
            for args in (["--kv-cache-dtype", "fp8"], [])
        )
        assert 2 * half == pytest.approx(full, abs=2 * MIB)

    def test_a_kind_of_layer_that_is_not_known_keeps_everything(self) -> None:
        types = ["sliding_attention"] * 16 + ["some_new_kind"] * 16
        window = known({**MISTRAL_7B, "layer_types": types}).sliding
        assert window is not None
        assert window.full_bytes_per_token == window.windowed_bytes_per_token


@pytest.mark.parametrize(
    ("device", "args", "tokens"),
    [
        (GPU, [], 2000),
        (CPU, [], 2048),
        (GPU, ["--block-size", "64"], 2048),
        (CPU, ["--block-size=32"], 2016),
    ],
    ids=["GPU", "CPU", "GPU by 64", "CPU by 32"],
)
def test_a_sequence_takes_whole_blocks(
    device: DeviceIdentity, args: list[str], tokens: int
) -> None:
    llama = known(LLAMA_3_2_1B, *args)
    assert sequence_bytes(llama, device, 2000, 2048) == tokens * llama.kv_bytes_per_token


@pytest.mark.parametrize(("device", "block"), [(GPU, 16), (CPU, 128)], ids=["GPU", "CPU"])
@pytest.mark.parametrize("config", [LLAMA_3_2_1B, GPT_OSS_20B], ids=["plain", "windows"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_cache_holds_one_block_more_than_its_sequences_take(
    config: dict[str, Any], device: DeviceIdentity, block: int, count: int
) -> None:
    model = known(config)
    taken_bytes = count * sequence_bytes(model, device, model.max_model_len, 2048)
    needed_bytes = taken_bytes + block * model.kv_bytes_per_token
    assert cache_bytes(model, device, count, 2048) == -(-needed_bytes // MIB) * MIB


def test_capacity_at_the_lengths_of_the_expected_load() -> None:
    llama = known(LLAMA_3_2_1B)
    given_bytes = 1000 * llama.kv_bytes_per_token
    assert (found := capacity(llama, GPU, given_bytes, 96)).sequences == 10
    assert found.tokens == 960
    assert capacity(llama, GPU, given_bytes, 100).sequences == 8  # 112 tokens in whole blocks


def test_a_load_longer_than_the_longest_sequence_is_cut_to_it() -> None:
    short = known(LLAMA_3_2_1B, "--max-model-len", "64")
    assert capacity(short, GPU, 2**30, 4096).sequence_tokens == 64


def test_a_window_lets_more_long_sequences_in() -> None:
    with_window, without = known(GEMMA_3_1B), known(GEMMA_3_1B, "--disable-hybrid-kv-cache-manager")
    long = capacity(with_window, GPU, 2**34, 16384).sequences
    assert long > 4 * capacity(without, GPU, 2**34, 16384).sequences


lengths = st.integers(1, 131_072)


@given(
    st.sampled_from([LLAMA_3_2_1B, MISTRAL_7B, GEMMA_3_1B, GPT_OSS_20B]),
    lengths,
    lengths,
    st.integers(1, 16384),
)
def test_a_longer_sequence_never_takes_less(
    config: dict[str, Any], tokens: int, more: int, step: int
) -> None:
    model = known(config)
    assert sequence_bytes(model, GPU, tokens, step) <= sequence_bytes(
        model, GPU, tokens + more, step
    )
