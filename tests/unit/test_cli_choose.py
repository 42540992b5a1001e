"""`slmctl choose`: the operator's choice among points of a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from slm_operator.cli import choose
from slm_operator.cli.app import app

HEADER = "kind,model,replicas,max_num_seqs,output_tok_s,itl_p99_ms,power_mean_w"
REPLICATION = """\
replication,opt-1.3b,1,256,7886.7,225.79,335.1
replication,opt-1.3b,2,256,10641.9,218.4,443.1
replication,opt-1.3b,4,256,10678.7,201.19,471.0
replication,opt-1.3b,1,768,7956.4,387.42,327.8
replication,opt-1.3b,1,96,6616.7,29.35,323.4
replication,opt-1.3b,2,96,8933.3,44.78,408.3
replication,opt-1.3b,4,96,9555.6,84.27,446.8
"""
"""Published measurements of OPT-1.3B on one H100: worker/slm_worker/planning/data/README.md."""


def run(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["choose", str(path), *arguments])


def chosen(path: Path, *arguments: str) -> tuple[int, int] | None:
    (only,) = found(path, *arguments)
    point = only["chosen"]
    return point and (point["replicas"], point["maxNumSeqs"])


def found(path: Path, *arguments: str) -> list[dict[str, Any]]:
    result = run(path, "--output", "json", *arguments)
    assert result.exit_code == 0, result.output
    answer: list[dict[str, Any]] = json.loads(result.stdout)
    return answer


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return written(tmp_path, REPLICATION)


def written(directory: Path, rows: str, header: str = HEADER) -> Path:
    path = directory / "points.csv"
    path.write_text(f"{header}\n{rows}")
    return path


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), (2, 256)),
        (("--objective", "MaxThroughput"), (2, 256)),
        (("--objective", "MinEnergyPerToken"), (1, 768)),
        (("--objective", "MaxThroughput", "--power-budget", "420"), (2, 96)),
        (("--slo-itl-p99", "50ms"), (2, 96)),
        (("--min-throughput-gain-percent", "50"), (1, 768)),
        (("--objective", "MaxThroughput", "--slo-itl-p99", "0.1s"), (4, 96)),
    ],
)
def test_the_published_curve(
    published: Path, arguments: tuple[str, ...], expected: tuple[int, int]
) -> None:
    assert chosen(published, *arguments) == expected


def test_every_other_point_is_rejected_with_numbers(published: Path) -> None:
    (only,) = found(published, "--power-budget", "450")
    rejected = {(p["replicas"], p["maxNumSeqs"]): p["why"] for p in only["rejected"]}
    assert len(rejected) == 6
    assert rejected[4, 256] == "471 W exceeds the power budget of 450 W"
    assert rejected[1, 96].startswith("0.0489 J/token is 18.6% above the least, 0.0412")
    assert {(p["replicas"], p["maxNumSeqs"]) for p in only["frontier"]} == {(1, 768), (2, 256)}


def test_nothing_keeps_the_limits(published: Path) -> None:
    (only,) = found(published, "--slo-itl-p99", "10ms")
    assert only["chosen"] is None
    assert only["why"].startswith("none of 7 points keeps the limits")
    assert only["frontier"] == []
    assert len(only["rejected"]) == 7
    text = run(published, "--slo-itl-p99", "10ms")
    assert text.exit_code == 0
    assert "none of 7 points keeps the limits" in text.output


def test_each_model_has_its_own_choice(tmp_path: Path) -> None:
    rows = REPLICATION + "sweep,llama,1,8,637.3,20.94,315.9\n"
    assert [(m["model"], m["chosen"]["replicas"]) for m in found(written(tmp_path, rows))] == [
        ("opt-1.3b", 2),
        ("llama", 1),
    ]


def test_a_point_measured_twice_counts_by_its_last_row(tmp_path: Path) -> None:
    path = written(tmp_path, "sweep,m,1,8,100,1,100\nsweep,m,1,8,200,1,100\n")
    (only,) = found(path)
    assert only["chosen"]["outputTokensPerSecond"] == 200
    assert [(p["outputTokensPerSecond"], p["why"]) for p in only["rejected"]] == [
        (100, "line 3 measures the same point, and the last row counts")
    ]


def test_blank_power_is_unknown(tmp_path: Path) -> None:
    (only,) = found(written(tmp_path, "x,m,1,8,129,,\nx,m,2,8,249,,\nx,m,3,8,178,,\n"))
    assert only["chosen"]["replicas"] == 2
    assert only["chosen"]["powerWatts"] is None
    assert "power is unknown here" in only["why"]


def test_text_shows_the_table_and_the_reason(published: Path) -> None:
    result = run(published)
    assert result.exit_code == 0
    assert "opt-1.3b" in result.output
    assert "2 replicas x 256 is Pareto-optimal" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        (HEADER + "\n", "a header and no row"),
        ("model,replicas\nm,1\n", "column max_num_seqs, output_tok_s, power_mean_w is missing"),
        (f"{HEADER}\nx,m,1,8,-5,1,1\n", "line 2, column output_tok_s: -5 is negative"),
        (f"{HEADER}\nx,m,1,8,5,1,1\nx,m,1,8,fast,1,1\n", "line 3, column output_tok_s: 'fast'"),
        (f"{HEADER}\nx,m,1,8,nan,1,1\n", "line 2, column output_tok_s: 'nan' is no number"),
        (f"{HEADER}\nx,m,1.5,8,5,1,1\n", "line 2, column replicas: 1.5 is no whole number"),
        (f"{HEADER}\nx,m,0,8,5,1,1\n", "line 2, column replicas: it is 0"),
        (f"{HEADER}\nx,m,1,8\n", "line 2, column output_tok_s: '' is no number"),
        (f"{HEADER}\nx,,1,8,5,1,1\n", "line 2, column model: it is blank"),
        (f"{HEADER}\nx,m,1,8,5,1,-3\n", "line 2, column power_mean_w: -3 is negative"),
    ],
)
def test_a_bad_file_is_refused_by_line_and_column(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content)
    result = run(path)
    assert result.exit_code == 1
    assert f"slmctl: {path}: " in result.stderr
    assert message in result.stderr


def test_a_limit_needs_its_column(tmp_path: Path) -> None:
    path = written(tmp_path, "m,1,8,5,1\n", "model,replicas,max_num_seqs,output_tok_s,power_mean_w")
    result = run(path, "--slo-itl-p99", "50ms")
    assert result.exit_code == 1
    assert "column itl_p99_ms is missing" in result.stderr


@pytest.mark.parametrize("text", ["50", "0ms", "fast", "-5ms", "5m"])
def test_a_duration_without_sense_is_refused(published: Path, text: str) -> None:
    result = run(published, f"--slo-itl-p99={text}")
    assert result.exit_code == 1
    assert "write one such as 50ms" in result.stderr


def test_durations() -> None:
    assert [choose.seconds(d) for d in ("50ms", "0.5s", "2s")] == [0.05, 0.5, 2.0]
