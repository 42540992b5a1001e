"""`slmctl simulate`: policies compared on a trace, as text, JSON and a page."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from simulate_builders import OPT_1_3B_CONFIG, PUBLISHED, opt_1_3b, trace
from slm_operator.cli import curves
from slm_operator.cli import simulate as simulating
from slm_operator.cli.app import app
from slm_operator.simulate.figures import ServiceLevel
from slm_operator.simulate.service import Terms
from slm_operator.simulate.study import NAMES

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
USUAL = ("pareto", "static:1", "hpa", "hpa+static:2", "keda-queue", "wva", "aibrix", "oracle")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Two minutes of traffic for the options of the command."""
    rows = "\n".join(
        f"2026-01-01 10:{second // 60:02}:{second % 60:02}.5,{100 + second},{20 + second}"
        for second in range(0, 120, 2)
    )
    (tmp_path / "trace.csv").write_text(f"{HEADER}\n{rows}\n")
    (tmp_path / "config.json").write_text(OPT_1_3B_CONFIG)
    return {
        "--trace": str(tmp_path / "trace.csv"),
        "--curves": str(PUBLISHED),
        "--model": "opt-1.3b",
    }


def run(options: dict[str, str], *policies: str) -> Result:
    named = [word for pair in options.items() for word in pair]
    asked = [word for name in policies for word in ("--policy", name)]
    return CliRunner().invoke(app, ["simulate", *named, *asked], env={"COLUMNS": "80"})


def found(options: dict[str, str], *policies: str) -> dict[str, Any]:
    result = run(options | {"--output": "json"}, *policies)
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def test_each_policy_has_its_figures(files: dict[str, str]) -> None:
    answer = found(files, *USUAL)
    assert [one["policy"] for one in answer["policies"]] == list(USUAL)
    for one in (*answer["policies"], answer["oracle"]):
        assert set(one) == {
            *("policy", "layout", "why", "joules", "joulesPerOutputToken", "gpuHours"),
            *("sloAttainment", "requests", "lost", "packChangesPerHour", "replicaChangesPerHour"),
            *("ttftSeconds", "itlSeconds", "regretToOracle"),
        }
        assert (one["requests"], one["lost"], one["sloAttainment"]) == (60, 0, 1.0)
        tokens = sum(20 + second for second in range(0, 120, 2))
        assert one["joulesPerOutputToken"] == pytest.approx(one["joules"] / tokens)
        assert list(one["ttftSeconds"]) == list(one["itlSeconds"]) == ["p50", "p95", "p99"]
        assert 0 < one["itlSeconds"]["p50"] <= one["itlSeconds"]["p99"]
    assert answer["oracle"]["regretToOracle"] == {"joules": 0.0, "gpuHours": 0.0}


def test_what_was_simulated_is_told_with_it(files: dict[str, str]) -> None:
    answer = found(files | {"--gpus": "2:3", "--slo-ttft": "500ms", "--start-seconds": "90"})
    assert answer["simulated"] is True
    assert answer["trace"] == files["--trace"]
    assert (answer["requests"], answer["meanPromptTokens"], answer["meanOutputTokens"]) == (
        *(60, 159.0, 79.0),
    )
    assert (answer["model"], answer["rateScale"]) == ("opt-1.3b", 1.0)
    assert answer["gpus"] == {"min": 2, "max": 3}
    assert answer["slo"] == {"ttftSeconds": 0.5, "itlSeconds": 0.1}
    assert answer["startSeconds"] == 90
    assert [one["policy"] for one in answer["policies"]] == [
        *("pareto", "hpa", "hpa+static:2", "static:1"),
    ]


def test_layouts_are_the_knee_for_pareto_and_vllms_default_for_the_others(
    files: dict[str, str],
) -> None:
    answer = found(files, "pareto", "hpa", "hpa+static:4", "static:2", "oracle")
    layouts = {one["policy"]: tuple(one["layout"].values()) for one in answer["policies"]}
    assert layouts == {
        "pareto": (2, 256),
        "hpa": (1, 256),
        "hpa+static:4": (4, 256),
        "static:2": (2, 256),
        "oracle": (2, 256),
    }
    why = {one["policy"]: one["why"] for one in answer["policies"]}
    assert why["pareto"].startswith("2 replicas x 256")
    assert why["hpa"] == "one engine"


def test_the_same_seed_gives_the_same_figures(files: dict[str, str]) -> None:
    options = files | {"--rate-scale": "7.5", "--seed": "3"}
    first = found(options, "pareto", "hpa")
    assert found(options, "pareto", "hpa") == first
    assert found(options | {"--seed": "4"}, "pareto", "hpa") != first
    assert 400 < first["requests"] < 500


def test_a_policy_that_is_named_twice_runs_once(files: dict[str, str]) -> None:
    assert len(found(files, "hpa", "hpa")["policies"]) == 1


@pytest.mark.parametrize("policies", [("pareto", "oracle"), ("oracle", "pareto"), ("hpa",)])
def test_the_table_shows_each_policy_once(files: dict[str, str], policies: tuple[str, ...]) -> None:
    rows = table(run(files, *policies).stdout)
    assert [row[0] for row in rows] == list(dict.fromkeys([*policies, "oracle"]))


def test_the_table_fits_80_columns_whole() -> None:
    """With figures as wide as those of a busy day."""
    load = trace((0.0, 100, 100), (1.0, 100, 100))
    question = simulating.Question(
        trace_path="azure-conversation.csv",
        trace=load,
        source=curves.Source("opt-1.3b", opt_1_3b(), "Curve measured"),
        rate_scale=20.0,
        policies=USUAL,
        terms=Terms(),
        wanted=ServiceLevel(),
        seed=1,
    )
    study = simulating.study(question)
    oracle = study.oracle()
    wide = replace(
        oracle.figures,
        joules=67_890_000.0,
        gpu_hours=64.25,
        slo_attainment=0.9876,
        lost=123_456,
        pack_changes_per_hour=120.5,
        ttft_seconds=(1.0, 59.99, 60.0),
    )
    runs = tuple(replace(oracle, policy=name, figures=wide) for name in USUAL)
    yardstick = replace(oracle, figures=replace(wide, joules=20e6, gpu_hours=20.0))
    console = Console(width=80, record=True, file=StringIO())
    console.print(simulating.text(simulating.Answer(question, runs, yardstick)))
    said = console.export_text()
    assert max(map(len, said.splitlines())) <= 80
    assert "…" not in said
    rows = table(said)
    assert [row[0] for row in rows] == [*USUAL, "oracle"]
    # layout in three words, TTFT in two
    assert rows[0] == (
        *("pareto", "2", "x", "256", "98.76%", "64.25", "+221.2%", "67.890", "+239.4%"),
        *("59.99", "s", "123,456", "120.5"),
    )


def table(said: str) -> list[tuple[str, ...]]:
    """The words of each row."""
    lines = [line.rstrip() for line in said.splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith("POLICY"))
    return [tuple(line.split()) for line in lines[start + 1 : lines.index("", start)]]


def test_the_text_says_what_was_simulated_and_on_what_basis(files: dict[str, str]) -> None:
    said = " ".join(run(files, "pareto").stdout.split())
    assert "60 requests in 0.03 h, 159 prompt and 79 output tokens on average" in said
    assert "SIMULATED: packs, router and clients are simulated" in said
    assert "Curve measured, 22 runs of" in said
    assert "Warning: the trace's prompts have 159 tokens on average, the curve's 111" in said
    assert "give --model-config to charge them" in said


def test_with_the_models_sizes_lengths_are_charged_and_nothing_is_warned_of(
    files: dict[str, str],
) -> None:
    config = str(Path(files["--trace"]).with_name("config.json"))
    answer = found(files | {"--model-config": config}, "pareto")
    assert answer["warnings"] == []
    assert answer["basis"].endswith(f"lengths and memory by {config}")
    assert answer["policies"][0]["ttftSeconds"]["p50"] > 0


def test_without_a_curve_the_planner_gives_one(files: dict[str, str]) -> None:
    config = str(Path(files["--trace"]).with_name("config.json"))
    options = {"--trace": files["--trace"], "--model-config": config}
    answer = found(options, "pareto", "hpa+static:3")
    assert answer["basis"] == f"Curve predicted for {config} on h100-sxm-64gb, not measured"
    assert answer["model"] == config
    assert answer["policies"][1]["layout"] == {"replicas": 3, "maxNumSeqs": 256}


class Page(HTMLParser):
    """Checks that every element is closed; collects what it shows and refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.addresses: list[str] = []
        self.lines: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        self._note(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def _note(self, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]
        self.lines += [v or "" for k, v in attrs if k == "points"]


def test_the_page_is_whole_and_needs_nothing_else(files: dict[str, str]) -> None:
    result = run(files | {"--output": "html", "--gpus": "1:3"}, "pareto", "hpa")
    assert result.exit_code == 0, result.output
    page = Page()
    page.feed(result.stdout)
    assert page.open == []
    assert page.addresses == []
    assert "<script" not in result.stdout
    assert "url(" not in result.stdout
    assert "@import" not in result.stdout
    assert {"pareto", "hpa", "oracle"} <= set(page.texts)
    assert any(text.startswith("SIMULATED") for text in page.texts)
    # demand, oracle and packs, for each of three policies
    assert len(page.lines) == 9
    points = [point.split(",") for line in page.lines for point in line.split()]
    assert all(0 <= float(x) <= 760 and 0 <= float(y) <= 170 for x, y in points)


def test_the_page_of_a_single_request(files: dict[str, str]) -> None:
    Path(files["--trace"]).write_text(f"{HEADER}\n2026-01-01 10:00:00,1,1\n")
    result = run(files | {"--output": "html"}, "pareto")
    assert result.exit_code == 0, result.output
    assert found(files, "pareto")["policies"][0]["itlSeconds"] is None
    assert run(files, "pareto").exit_code == 0


def test_names_from_files_are_escaped(files: dict[str, str], tmp_path: Path) -> None:
    named = tmp_path / "<b>&.csv"
    named.write_text(Path(files["--trace"]).read_text())
    result = run(files | {"--trace": str(named), "--output": "html"}, "pareto")
    assert "&lt;b&gt;&amp;.csv" in result.stdout
    assert "<b>&" not in result.stdout


CURVE = "model,replicas,max_num_seqs,output_tok_s,power_mean_w"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"--gpus": "x"}, "--gpus x: no range: write the fewest and the most, such as 1:8"),
        ({"--gpus": "5:2"}, "--gpus 5:2: from 5 to 2 is no range within 1 to 64: write"),
        ({"--gpus": "0:2"}, "--gpus 0:2: from 0 to 2 is no range within 1 to 64: write"),
        ({"--gpus": "99"}, "--gpus 99: from 99 to 99 is no range within 1 to 64: write"),
        ({"--slo-ttft": "5"}, "--slo-ttft: '5' is no duration above zero: write one such as 50ms"),
        ({"--slo-itl": "0s"}, "--slo-itl: '0s' is no duration above zero: write one such as"),
        ({"--model": "gpt"}, "--model gpt: not in {curves}: use one of llama-2-7b, opt-1.3b, opt"),
        ({"--gpu": "h900"}, "--gpu h900: not in the catalogue: use one of v100-pcie-16gb"),
        ({"--rate-scale": "200000"}, "--trace {trace}: 12,000,000 requests are more than the"),
        (
            {"--policy": "fastest"},
            "--policy fastest: unknown: use one of pareto, static:N, hpa, keda-queue",
        ),
        ({"--policy": "pareto+static:2"}, "--policy pareto+static:2: unknown: use one of"),
        ({"--policy": "static:9"}, "--policy static:9: 9 replicas on a GPU are not on the curve"),
        ({"--policy": "hpa+static:0"}, "--policy hpa+static:0: 0 replicas on a GPU are not on"),
    ],
)
def test_a_wrong_option_is_named_with_its_value_and_the_remedy(
    files: dict[str, str], options: dict[str, str], said: str
) -> None:
    result = run(files | options)
    assert result.exit_code == 1
    expected = said.format(curves=files["--curves"], trace=files["--trace"])
    assert result.stderr.startswith(f"slmctl: {expected}")
    assert result.stdout == ""


def test_no_policy_runs_before_all_are_known(files: dict[str, str]) -> None:
    assert run(files | {"--rate-scale": "10000"}, "hpa", "fastest").exit_code == 1


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("--trace", "", "--trace {path}: the file is empty: give a header line with TIMESTAMP"),
        ("--trace", f"{HEADER}\nnoon,1,1", "--trace {path}: line 2, column TIMESTAMP: 'noon' is"),
        ("--trace", b"\xff\xfe\x00", "--trace {path}: 'utf-8' codec can't decode"),
        ("--curves", "", "--curves {path}: the file is empty: give a header line with model"),
        (
            "--curves",
            f"{CURVE}\nopt-1.3b,2,256,10642,443",
            "--curves {path}, model opt-1.3b: no point of one replica: a curve needs at least one",
        ),
        (
            "--curves",
            f"{CURVE}\nopt-1.3b,1,256,7887,",
            "--curves {path}, model opt-1.3b: 1 replica x 256 has no power: give power_mean_w",
        ),
        (
            "--curves",
            f"{CURVE}\nopt-1.3b,1,256,7887,90",
            "--curves {path}, model opt-1.3b: 1 replica x 256 draws 90 W, and the GPU 132 W when",
        ),
        ("--curves", b"\xff\xfe\x00", "--curves {path}: 'utf-8' codec can't decode"),
        ("--model-config", "{", "--model-config {path}: no JSON ("),
        ("--model-config", "[]", "--model-config {path}: no model's sizes: use its config.json"),
        ("--model-config", "{}", "--model-config {path}"),
        ("--model-config", b"\xff\xfe\x00", "--model-config {path}: 'utf-8' codec can't decode"),
    ],
)
def test_a_wrong_file_is_named_with_the_option_that_gave_it(
    files: dict[str, str], tmp_path: Path, file: str, text: str | bytes, said: str
) -> None:
    path = tmp_path / "wrong"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    result = run(files | {file: str(path)})
    assert result.exit_code == 1
    assert result.stderr.startswith(f"slmctl: {said.format(path=path)}")


def test_a_config_without_sizes_is_told_what_it_lacks(files: dict[str, str]) -> None:
    config = Path(files["--trace"]).with_name("config.json")
    config.write_text('{"model_type": "opt", "num_hidden_layers": 24}')
    result = run(files | {"--model-config": str(config)})
    assert result.exit_code == 1
    assert result.stderr.startswith(f"slmctl: --model-config {config}")
    assert "hidden_size" in result.stderr


def test_several_models_have_to_be_told_apart(files: dict[str, str]) -> None:
    del files["--model"]
    result = run(files)
    assert result.exit_code == 1
    assert result.stderr.startswith("slmctl: --model: not given: choose one of llama-2-7b, opt-1.")


def test_a_file_of_one_model_needs_no_name(files: dict[str, str], tmp_path: Path) -> None:
    del files["--model"]
    path = tmp_path / "one.csv"
    path.write_text(
        f"{CURVE},duration_s,prompts,total_tok_s\nm,1,256,7887,335,,,\nm,2,256,9000,400"
    )
    answer = found(files | {"--curves": str(path)}, "pareto")
    assert answer["model"] == "m"
    assert "with 111 prompt and 292 output tokens a request" in answer["basis"]


def test_a_curve_has_to_come_from_somewhere(files: dict[str, str]) -> None:
    result = run({"--trace": files["--trace"]})
    assert result.exit_code == 1
    assert result.stderr.startswith("slmctl: --curves: not given: give a file of measured points, ")


@pytest.mark.parametrize(
    "wrong",
    [
        {"--trace": "/no/such.csv"},
        {"--curves": "/no/such.csv"},
        {"--model-config": "/no/such.json"},
        {"--rate-scale": "nan"},
        {"--rate-scale": "0"},
        {"--start-seconds": "inf"},
        {"--output": "yaml"},
    ],
)
def test_a_wrong_command_line_ends_with_2(files: dict[str, str], wrong: dict[str, str]) -> None:
    ((option, value),) = wrong.items()
    result = run(files | wrong)
    assert result.exit_code == 2
    assert option in result.stderr
    assert value in result.stderr or option in ("--rate-scale", "--start-seconds")


def test_help_names_each_policy() -> None:
    said = CliRunner().invoke(app, ["simulate", "--help"], env={"COLUMNS": "200"}).stdout
    assert all(name in said for name in NAMES)
