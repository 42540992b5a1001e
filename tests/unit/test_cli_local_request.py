"""What a person asks of ``slmctl local`` becomes an SLMService, or is refused with a remedy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_operator.api.rules import MAX_NAME_LENGTH
from slm_operator.cli.local.request import (
    LocalError,
    Request,
    gpu_kind,
    manifest,
    model_uri,
    service,
    service_name,
)
from slm_operator.render.children import pack_config

NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


@pytest.mark.parametrize(
    ("model", "uri"),
    [
        ("hf://facebook/opt-1.3b", "hf://facebook/opt-1.3b"),
        ("facebook/opt-1.3b", "hf://facebook/opt-1.3b"),
        ("opt-1.3b", "hf://facebook/opt-1.3b"),
        ("models/mine", "file://{folder}/models/mine"),
        ("./models/mine", "file://{folder}/models/mine"),
        ("{folder}/models/mine/", "file://{folder}/models/mine"),
        ("file://{folder}/models/mine", "file://{folder}/models/mine"),
    ],
)
def test_a_model_is_a_uri_a_directory_or_a_name_on_the_hub(
    tmp_path: Path, model: str, uri: str
) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    found = model_uri(model.format(folder=tmp_path), tmp_path)
    assert found == uri.format(folder=tmp_path)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("/no/such", "'/no/such', and /no/such does not exist: give the directory"),
        ("./file", "file is no directory: give the directory"),
        ("file://models/mine", "write file:///ABSOLUTE/PATH with three slashes"),
        ("hf://opt-1.3b", "write hf://ORGANISATION/NAME, such as"),
        ("opt-13b", "neither a directory here nor a name on the hub: give the directory"),
        ("./with space", "rename or link"),
    ],
)
def test_a_model_that_cannot_be_is_refused_with_a_remedy(
    tmp_path: Path, model: str, said: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "with space").mkdir()
    with pytest.raises(LocalError) as refused:
        model_uri(model, tmp_path)
    assert said in str(refused.value)
    assert model in str(refused.value)


@pytest.mark.parametrize(
    ("gpu", "engine", "nvidia", "kind"),
    [
        ("auto", None, True, "NVIDIA"),
        ("auto", None, False, "CPU"),
        ("auto", "vllm", False, "CPU"),
        ("auto", "simulated", True, "Simulated"),
        ("nvidia", None, False, "NVIDIA"),
        ("cpu", "vllm", True, "CPU"),
        ("simulated", None, True, "Simulated"),
        ("simulated", "simulated", True, "Simulated"),
    ],
)
def test_the_device_follows_from_gpu_and_engine(
    gpu: str, engine: str | None, nvidia: bool, kind: str
) -> None:
    assert gpu_kind(gpu, engine, lambda: nvidia) == kind


def test_a_device_that_is_named_is_not_looked_for() -> None:
    assert gpu_kind("cpu", None, lambda: pytest.fail("the driver was asked")) == "CPU"


@pytest.mark.parametrize(("gpu", "engine"), [("simulated", "vllm"), ("cpu", "simulated")])
def test_an_engine_that_does_not_go_with_the_device_is_refused(gpu: str, engine: str) -> None:
    with pytest.raises(LocalError, match=f"--engine {engine} .* --gpu is {gpu}: .* out"):
        gpu_kind(gpu, engine, lambda: True)


def test_the_manifest_holds_what_differs_from_the_defaults_alone() -> None:
    smallest = manifest(Request("hf://facebook/opt-1.3b", "NVIDIA"))
    assert smallest["spec"] == {"model": {"uri": "hf://facebook/opt-1.3b"}}
    assert smallest["metadata"] == {"name": "opt-1-3b"}
    full = manifest(
        Request(
            "file:///m",
            "Simulated",
            engine_args=("--max-model-len", "512"),
            max_num_seqs=64,
            max_replicas=3,
            objective="MaxThroughput",
            ttft_p95="500ms",
            power_budget_watts=400,
            prompt_tokens=10,
            output_tokens=20,
        )
    )
    assert full["spec"] == {
        "model": {"uri": "file:///m"},
        "engine": {
            "kind": "Simulated",
            "args": ["--max-model-len", "512"],
            "maxNumSeqs": 64,
        },
        "gpu": {"kind": "Simulated"},
        "autoscaling": {
            "maxReplicasPerPack": 3,
            "objective": "MaxThroughput",
            "slo": {"ttftP95": "500ms"},
            "powerBudgetWatts": 400,
            "calibration": {"promptTokens": 10, "outputTokens": 20},
        },
    }


def test_the_agent_is_told_what_it_would_be_told_in_a_cluster() -> None:
    config = pack_config(service(manifest(Request("file:///m/x", "CPU", ("--dtype=float32",)))))
    assert (config.model.uri, config.model.name) == ("file:///m/x", "x")
    assert (config.engine.kind, config.engine.args) == ("vLLM", ("--dtype=float32",))
    assert config.gpu.kind == "CPU"


def test_a_value_that_the_resource_does_not_take_is_named_with_its_field() -> None:
    with pytest.raises(LocalError, match=r"spec\.autoscaling\.maxReplicasPerPack is 99: .* 32"):
        service(manifest(Request("file:///m", "CPU", max_replicas=99)))


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("hf://HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m-instruct"),
        ("file:///models/7B_chat/", "slm-7b-chat"),
        ("file:///models/___", "slm"),
        ("file:///models/sized-packs", "sized-pack"),
        ("file:///models/kubernetes", "slm-kubernetes"),
    ],
)
def test_the_service_is_named_after_its_model(uri: str, name: str) -> None:
    assert service_name(uri) == name


@given(st.text(max_size=200))
def test_any_model_gives_a_name_that_the_api_server_takes(text: str) -> None:
    name = service_name(f"file:///{text}")
    assert NAME.fullmatch(name)
    assert len(name) <= MAX_NAME_LENGTH
