"""Where a model's size is read from, and what is said of files that are not right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slm_worker import model_files, wire
from slm_worker.model_files import read_footprint
from slm_worker.planning.footprint import ModelError, ModelFootprint

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
KV_BYTES_PER_TOKEN = 2 * 2 * 2 * 16 * 2


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    write_config(directory)
    return directory


def write_config(directory: Path, config: object = CONFIG) -> None:
    (directory / "config.json").write_text(json.dumps(config))


def write_tensors(file: Path, header: object) -> None:
    content = json.dumps(header).encode()
    file.write_bytes(len(content).to_bytes(8, "little") + content)


def tensor(*shape: int, dtype: str = "BF16") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [0, 0]}


def read(
    uri: str | Path, *args: str, kind: Any = "vLLM", revision: str | None = None
) -> ModelFootprint | None:
    text = uri if isinstance(uri, str) else f"file://{uri}"
    reference = wire.ModelRef(uri=text, name="m", revision=revision)
    return read_footprint(reference, wire.EngineConfig(kind=kind, args=args))


def figures(found: ModelFootprint | None) -> tuple[int, int, int]:
    """Bytes of weights, bytes of KV cache for a token, longest sequence."""
    assert found is not None
    return found.weights_bytes, found.kv_bytes_per_token, found.max_model_len


def refusal(uri: str | Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        read(uri)
    return caught.value


class TestDirectory:
    def test_weights_are_counted_from_the_safetensors_headers(self, model: Path) -> None:
        write_tensors(
            model / "a.safetensors", {"__metadata__": {"format": "pt"}, "x": tensor(3, 5)}
        )
        write_tensors(model / "b.safetensors", {"y": tensor(7), "scalar": tensor()})
        assert figures(read(model)) == (2 * (15 + 7 + 1), KV_BYTES_PER_TOKEN, 256)

    def test_arguments_of_the_engine_count(self, model: Path) -> None:
        write_tensors(model / "a.safetensors", {"x": tensor(10)})
        result = read(model, "--dtype", "float32", "--max-model-len", "128")
        assert figures(result) == (40, 2 * KV_BYTES_PER_TOKEN, 128)

    def test_only_the_index_s_files_are_counted(self, model: Path) -> None:
        write_tensors(model / "a.safetensors", {"x": tensor(10)})
        write_tensors(model / "adapter.safetensors", {"z": tensor(1000)})
        index = {"weight_map": {"x": "a.safetensors"}}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        result = read(model)
        assert result is not None
        assert result.weights_bytes == 20

    def test_the_consolidated_copy_is_not_counted(self, model: Path) -> None:
        write_tensors(model / "model.safetensors", {"x": tensor(10)})
        write_tensors(model / "consolidated.safetensors", {"x": tensor(10)})
        result = read(model)
        assert result is not None
        assert result.weights_bytes == 20

    @pytest.mark.parametrize(
        ("files", "complete"),
        [
            (["model.safetensors"], True),
            (["part.safetensors"], True),
            (["model.safetensors", "adapter.safetensors"], True),
            (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], True),
            (["model-00004-of-00004.safetensors"], False),
            (["model-00001-of-00002.safetensors", "adapter.safetensors"], False),
            (["model-00001-of-00002.safetensors", "other-00001-of-00002.safetensors"], False),
            (["model-00001-of-000002.safetensors"], False),
            (["model-00001-of-000002.safetensors", "model-00002-of-000002.safetensors"], True),
            (["model-1-of-2.safetensors"], False),
            (["part_1.safetensors"], False),
            (["part_1.safetensors", "part_2.safetensors"], False),
            (["llama-2-7b.safetensors"], True),
        ],
        ids=lambda value: "+".join(value) if isinstance(value, list) else "",
    )
    def test_without_an_index_the_names_tell_whether_all_shards_are_there(
        self, model: Path, files: list[str], complete: bool
    ) -> None:
        estimate = read(model)
        assert estimate is not None
        for name in files:
            write_tensors(model / name, {name: tensor(10)})
        result = read(model)
        assert result is not None
        told = (result.weights_bytes, result.weights_source)
        read_bytes = 20 * len(files)
        assert told == ((read_bytes, "read") if complete else (estimate.weights_bytes, "estimated"))

    @pytest.mark.parametrize(
        "second",
        [
            ["model.fp16.safetensors"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ],
        ids="+".join,
    )
    def test_a_second_copy_of_the_weights_is_not_counted(
        self, model: Path, second: list[str]
    ) -> None:
        write_tensors(model / "model.safetensors", {"x": tensor(10)})
        alone = read(model)
        for name in second:
            write_tensors(model / name, {"x": tensor(10)})
        assert read(model) == alone

    def test_without_safetensors_the_configuration_gives_an_estimate(self, model: Path) -> None:
        attention = 64 * 64 + 2 * 64 * 32 + 64 * 64
        layer = attention + 3 * 64 * 128 + 2 * 64
        result = read(model)
        assert result is not None
        assert result.weights_bytes == 2 * (1000 * 64 + 2 * layer + 64)


class TestRefusals:
    def test_a_path_that_is_not_there(self, tmp_path: Path) -> None:
        error = refusal(tmp_path / "nowhere")
        assert error.reason == "ModelNotFound"
        assert str(tmp_path / "nowhere") in error.message
        assert "mount the volume" in error.message

    def test_a_path_that_is_a_file(self, model: Path) -> None:
        error = refusal(model / "config.json")
        assert error.reason == "ModelNotFound"
        assert "is not a directory" in error.message

    def test_a_relative_path(self) -> None:
        error = refusal("file://models/x")
        assert error.reason == "ModelNotFound"
        assert "three slashes" in error.message

    def test_no_config(self, model: Path) -> None:
        (model / "config.json").unlink()
        error = refusal(model)
        assert error.reason == "ModelConfigInvalid"
        assert f"{model}/config.json is missing" in error.message

    def test_a_config_that_is_no_json_names_the_line(self, model: Path) -> None:
        (model / "config.json").write_text('{\n  "a": 1,\n  oops\n}')
        error = refusal(model)
        assert error.reason == "ModelConfigInvalid"
        assert "line 3" in error.message

    @pytest.mark.parametrize("content", [b"[1, 2]", b"\xff\xfe", b"[" * 100_000], ids=len)
    def test_a_config_that_is_no_object(self, model: Path, content: bytes) -> None:
        (model / "config.json").write_bytes(content)
        assert refusal(model).reason == "ModelConfigInvalid"

    def test_a_config_that_is_too_large(self, model: Path) -> None:
        (model / "config.json").write_bytes(b" " * (model_files.MAX_CONFIG_BYTES + 1))
        assert "is larger than 1,048,576 bytes" in refusal(model).message

    def test_a_missing_field_is_named(self, model: Path) -> None:
        write_config(model, {key: CONFIG[key] for key in CONFIG if key != "hidden_size"})
        assert "hidden_size" in refusal(model).message

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\x10\0\0",
            (2**60).to_bytes(8, "little") + b"{}",
            (3).to_bytes(8, "little") + b"{{{",
            (2).to_bytes(8, "little") + b"[]",
        ],
        ids=["empty", "cut", "huge header", "no JSON", "no object"],
    )
    def test_a_damaged_safetensors_file(self, model: Path, content: bytes) -> None:
        (model / "a.safetensors").write_bytes(content)
        error = refusal(model)
        assert error.reason == "ModelConfigInvalid"
        assert "a.safetensors" in error.message
        assert "copy all of the model's files again" in error.message

    @pytest.mark.parametrize(
        "entry",
        [3, {"dtype": "F16"}, {"dtype": "F16", "shape": [-1]}, {"dtype": "F16", "shape": "12"}],
        ids=str,
    )
    def test_a_malformed_tensor(self, model: Path, entry: object) -> None:
        write_tensors(model / "a.safetensors", {"broken": entry})
        assert "'broken'" in refusal(model).message

    @pytest.mark.parametrize("name", ["b.safetensors", "../model/config.json", "/etc/passwd"])
    def test_an_index_that_names_other_files(self, model: Path, name: str) -> None:
        index = {"weight_map": {"x": name}}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        error = refusal(model)
        assert error.reason == "ModelConfigInvalid"
        assert name in error.message


class TestHub:
    @pytest.fixture
    def snapshot(self, tmp_path: Path) -> Path:
        """A downloaded revision of org/small, which main points to."""
        entry = tmp_path / "hf/hub/models--org--small"
        snapshot = entry / "snapshots/abc123"
        snapshot.mkdir(parents=True)
        (entry / "refs").mkdir()
        (entry / "refs/main").write_text("abc123\n")
        write_config(snapshot)
        return snapshot

    @pytest.mark.parametrize("kind", ["vLLM", "Simulated"])
    def test_opt_1_3b_is_known_without_files(self, kind: str) -> None:
        known = read("hf://facebook/opt-1.3b", kind=kind)
        assert figures(known) == (2_631_516_160, 196_608, 2048)

    def test_a_model_that_is_still_to_be_downloaded_is_unknown(self) -> None:
        assert read("hf://org/small") is None

    def test_a_downloaded_model_is_read_from_the_cache(self, snapshot: Path) -> None:
        write_tensors(snapshot / "model.safetensors", {"x": tensor(10)})
        expected = (20, KV_BYTES_PER_TOKEN, 256)
        assert figures(read("hf://org/small")) == expected
        assert figures(read("hf://org/small", revision="abc123")) == expected
        assert read("hf://org/small", revision="v2") is None

    def test_the_cache_s_own_variable_decides(
        self, snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_HOME", str(tmp_path / "elsewhere"))
        assert read("hf://org/small") is None
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf/hub"))
        assert read("hf://org/small") is not None

    def test_shards_that_are_downloaded_before_their_index_are_not_counted(
        self, snapshot: Path
    ) -> None:
        estimate = read("hf://org/small")
        write_tensors(snapshot / "model-00002-of-00002.safetensors", {"x": tensor(10)})
        assert read("hf://org/small") == estimate

    def test_a_half_downloaded_model_is_unknown(self, snapshot: Path) -> None:
        index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
        (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
        write_tensors(snapshot / "a.safetensors", {"x": tensor(10)})
        assert read("hf://org/small") is None

    @pytest.mark.parametrize("revision", ["../../x", "/etc/hostname", "refs/pr/1", ".."])
    def test_a_revision_does_not_leave_the_cache(self, snapshot: Path, revision: str) -> None:
        assert read("hf://org/small", revision=revision) is None
