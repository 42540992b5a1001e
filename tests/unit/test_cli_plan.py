"""`slmctl plan` and `slmctl gpus`: predictions as a user and as a script read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from slm_operator.cli.app import app

OPT_1_3B: Mapping[str, object] = {
    "_name_or_path": "facebook/opt-1.3b",
    "model_type": "opt",
    "num_hidden_layers": 24,
    "hidden_size": 2048,
    "num_attention_heads": 32,
    "ffn_dim": 8192,
    "vocab_size": 50272,
    "max_position_embeddings": 2048,
}
STUDY = ("--prompt-tokens", "111", "--output-tokens", "292", "--no-chunked-prefill")


def config(directory: Path, fields: Mapping[str, object] = OPT_1_3B) -> Path:
    path = directory / "config.json"
    path.write_text(json.dumps(fields))
    return path


def plan(path: Path, *arguments: str, gpu: str = "h100-sxm-64gb") -> Result:
    given = ["plan", "--model-config", str(path), "--gpu", gpu, *arguments]
    return CliRunner().invoke(app, given, env={"COLUMNS": "120"})


def planned(path: Path, *arguments: str) -> dict[str, Any]:
    result = plan(path, *arguments, "--output", "json")
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def test_json_has_every_layout_the_frontier_and_the_knee(tmp_path: Path) -> None:
    found = planned(
        config(tmp_path), "--replicas", "1,2,4", "--max-num-seqs", "96,256",
        *STUDY,
    )  # fmt: skip

    assert (found["model"], found["gpu"]) == ("facebook/opt-1.3b", "h100-sxm-64gb")
    assert [(one["replicas"], one["maxNumSeqs"]) for one in found["layouts"]] == [
        (1, 96), (1, 256), (2, 96), (2, 256), (4, 96), (4, 256),
    ]  # fmt: skip
    two = found["layouts"][3]
    assert two["kvCacheBytesPerReplica"] > 20 * 2**30
    assert "fits" in two.pop("why")
    two.pop("kvCacheBytesPerReplica")
    assert two == {
        "replicas": 2,
        "maxNumSeqs": 256,
        "outputTokensPerSecond": 10641.9,
        "powerWatts": 443.1,
        "microjoulesPerOutputToken": 41637,
        "itlMeanMs": 37.07,
        "feasible": True,
        "origin": "measured",
    }
    assert {"replicas": 2, "maxNumSeqs": 256} in found["frontier"]
    assert (found["knee"]["replicas"], found["knee"]["maxNumSeqs"]) == (2, 256)


def test_a_model_that_was_never_measured_is_predicted(tmp_path: Path) -> None:
    other = config(tmp_path, {**OPT_1_3B, "num_hidden_layers": 32, "hidden_size": 2560})

    found = planned(other, "--replicas", "1", "--max-num-seqs", "96", *STUDY)

    assert [one["origin"] for one in found["layouts"]] == ["predicted"]
    assert 3000 < found["layouts"][0]["outputTokensPerSecond"] < 6500


def test_what_does_not_fit_is_told_with_its_sum_and_has_no_figures(tmp_path: Path) -> None:
    found = planned(config(tmp_path), "--replicas", "1,32", "--max-num-seqs", "64")

    (one,) = [each for each in found["layouts"] if each["replicas"] == 32]
    assert one["feasible"] is False
    assert "32 replicas do not fit" in one["why"]
    unknown = {key for key, value in one.items() if value is None}
    assert unknown == {
        "outputTokensPerSecond",
        "powerWatts",
        "microjoulesPerOutputToken",
        "itlMeanMs",
        "kvCacheBytesPerReplica",
    }
    assert found["frontier"] == [{"replicas": 1, "maxNumSeqs": 64}]


def test_nothing_that_fits_has_no_knee(tmp_path: Path) -> None:
    found = planned(config(tmp_path), "--replicas", "32", "--max-num-seqs", "64")

    assert (found["frontier"], found["knee"]) == ([], None)


def test_text_shows_a_row_for_each_layout_its_origin_and_the_best(tmp_path: Path) -> None:
    result = plan(config(tmp_path), "--replicas", "2,3,32", "--max-num-seqs", "96,256", *STUDY)

    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    (best,) = [line for line in lines if line.startswith("◆") and "GiB" in line]
    assert best.split()[1:5] == ["2", "256", "10,642", "443"]
    assert best.split()[-1] == "measured"
    assert any("interpolated" in line for line in lines)
    assert any("does not fit" in line for line in lines)
    assert "2 replicas x 256 is Pareto-optimal" in result.stdout
    assert "Means of a whole run" in result.stdout


def test_the_same_count_twice_is_one_layout(tmp_path: Path) -> None:
    found = planned(config(tmp_path), "--replicas", "2, 2,1", "--max-num-seqs", "64")

    assert [one["replicas"] for one in found["layouts"]] == [2, 1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--replicas", "1,two"), "--replicas 1,two: 'two' is no whole number from 1 to 32"),
        (("--replicas", "0"), "--replicas 0: '0' is no whole number"),
        (("--replicas", "33"), "'33' is no whole number from 1 to 32"),
        (("--max-num-seqs", "96,"), "--max-num-seqs 96,: '' is no whole number from 1 to 4,096"),
        (("--prompt-tokens", "0"), "--prompt-tokens 0: no length"),
        (("--output-tokens", "-3"), "--output-tokens -3: no length"),
        (("--prompt-tokens", "2000", "--output-tokens", "100"), "longest sequence of 2,048"),
        (("--dtype", "int3"), "--dtype int3: "),
    ],
)
def test_bad_input_names_option_value_and_remedy(
    tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    result = plan(config(tmp_path), *arguments)

    assert result.exit_code == 1
    assert says in result.stderr
    assert result.stdout == ""


def test_an_unknown_gpu_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    result = plan(config(tmp_path), gpu="h100")

    assert result.exit_code == 1
    assert "--gpu h100: not in the catalogue: use one of" in result.stderr
    assert "h100-sxm-64gb" in result.stderr


def test_a_dtype_that_the_gpu_lacks_is_refused_with_those_it_has(tmp_path: Path) -> None:
    result = plan(config(tmp_path), "--dtype", "bfloat16", gpu="t4")

    assert result.exit_code == 1
    assert "--dtype bfloat16: t4 does not multiply it: use one of float16" in result.stderr


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "no JSON"),
        ("[1]", "holds a list, no object"),
        ('{"model_type": "opt"}', "num_hidden_layers"),
        (json.dumps({"text_config": {"model_type": "gemma3_text"}}), "engine's defaults"),
        (
            json.dumps({**OPT_1_3B, "model_type": "mixtral", "num_local_experts": 8}),
            "mixture of experts",
        ),
    ],
    ids=["broken", "a list", "fields missing", "defaults of a class", "experts"],
)
def test_an_unusable_config_is_refused_with_a_remedy(
    tmp_path: Path, content: str, says: str
) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)

    result = plan(path)

    assert result.exit_code == 1
    assert str(path) in result.stderr
    assert says in result.stderr


def test_gpus_lists_the_catalogue_with_sources() -> None:
    result = CliRunner().invoke(app, ["gpus"], env={"COLUMNS": "120"})

    assert result.exit_code == 0
    row = next(line for line in result.stdout.splitlines() if line.startswith("h100-sxm-80gb"))
    assert row.split() == [
        "h100-sxm-80gb",
        "80",
        "3,350",
        "989",
        "67",
        "1,979",
        "132",
        "132",
        "700",
    ]
    assert "data sheet" in result.stdout


def test_gpus_as_json_gives_units_in_names() -> None:
    result = CliRunner().invoke(app, ["gpus", "--output", "json"])

    found = {one["name"]: one for one in json.loads(result.stdout)}
    assert found["l4"]["bytesPerSecond"] == 300e9
    assert found["l4"]["flopsPerSecond"]["fp8"] == 242e12
    assert found["l4"]["idleSource"].startswith("estimate")
