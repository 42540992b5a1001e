"""`slmctl choose`: the operator's choice among points of a file."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from slm_operator.cli import choose
from slm_operator.cli.app import app
from slm_worker.planning.measured import STUDY_GPU

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


SUMMARY = Path(str(resources.files("slm_worker.planning") / "data" / f"{STUDY_GPU}.csv"))


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


def test_rows_of_one_point_are_pooled(tmp_path: Path) -> None:
    path = written(tmp_path, "sweep,m,1,8,990,1,100\nsweep,m,1,8,1010,3,104\n")
    (only,) = found(path)
    assert (only["rows"], only["points"], only["rejected"]) == (2, 1, [])
    assert only["chosen"]["runs"] == 2
    assert only["chosen"]["outputTokensPerSecond"] == 1000
    assert only["chosen"]["powerWatts"] == 102
    assert only["chosen"]["itlP99Milliseconds"] == 2
    assert 5 < only["chosen"]["confidenceTokensPerSecond"] < 30
    assert "repeats were averaged (2 rows, 1 distinct points)" in only["why"]
    assert "RUNS" in run(path).output


def test_repeats_tell_noise_from_gain(tmp_path: Path) -> None:
    """A gain of 8 % counts while nothing is known of the noise, and not when runs scatter by 10."""
    gain = "x,m,1,8,1000,,\nx,m,2,8,1080,,\n"
    assert chosen(written(tmp_path, gain)) == (2, 8)
    scatter = "x,m,1,8,900,,\nx,m,1,8,1100,,\nx,m,2,8,980,,\nx,m,2,8,1180,,\n"
    assert chosen(written(tmp_path, scatter)) == (1, 8)


CHOICES = [
    ((), (2, 256)),
    (("--objective", "MaxThroughput"), (2, 256)),
    (("--objective", "MaxThroughput", "--power-budget", "420"), (2, 96)),
    (("--slo-itl-p99", "50ms"), (2, 96)),
]


@pytest.mark.parametrize(("arguments", "expected"), CHOICES)
def test_the_whole_published_file(arguments: tuple[str, ...], expected: tuple[int, int]) -> None:
    """With the sweep of one replica, some of whose points were run again."""
    by_model = {m["model"]: m["chosen"] for m in found(SUMMARY, *arguments)}
    assert set(by_model) == {"llama-2-7b", "opt-1.3b", "opt-1.3b_chunked"}
    point = by_model["opt-1.3b"]
    assert (point["replicas"], point["maxNumSeqs"]) == expected


def test_the_least_energy_of_the_whole_published_file_takes_one_replica() -> None:
    points = {m["model"]: m["chosen"] for m in found(SUMMARY, "--objective", "MinEnergyPerToken")}
    assert points["opt-1.3b"]["replicas"] == 1
    assert points["opt-1.3b"]["microjoulesPerOutputToken"] < 1.01 * 41_640


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("x,m,1,8,1000,,100\nx,m,2,8,1000,,100\nx,m,3,8,1000,,100\n", (1, 8)),
        ("x,m,1,8,1000,,100\nx,m,2,8,500,,100\nx,m,3,8,333,,100\n", (1, 8)),
        ("x,m,1,8,1000,,100\nx,m,2,8,1300,,130\nx,m,3,8,1310,,131\nx,m,4,8,1600,,160\n", (4, 8)),
        ("x,m,3,8,1000,,100\n", (3, 8)),
        ("x,m,1,8,1000,,100\nx,m,2,8,1400,,\n", (2, 8)),
        ("x,m,1,16,1000,,100\nx,m,1,8,1000,,100\n", (1, 8)),
    ],
    ids=["flat", "falling", "two knees", "one point", "some power unknown", "equal points"],
)
def test_other_curves(tmp_path: Path, rows: str, expected: tuple[int, int]) -> None:
    assert chosen(written(tmp_path, rows)) == expected


def test_preemptions_are_named_and_can_be_limited() -> None:
    by_model = {m["model"]: m for m in found(SUMMARY, "--max-preemptions", "0.1")}
    rejected = {(p["replicas"], p["maxNumSeqs"]): p for p in by_model["opt-1.3b"]["rejected"]}
    assert rejected[4, 256]["preemptionsPerRequest"] == 0.302
    assert rejected[4, 256]["why"] == "0.30 preemptions a request exceed the limit of 0.10"
    free = {m["model"]: m for m in found(SUMMARY)}["opt-1.3b"]
    why = {(p["replicas"], p["maxNumSeqs"]): p["why"] for p in free["rejected"]}
    assert why[4, 256].endswith("its KV cache ran full: 0.30 preemptions a request")


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
        (
            f"{HEADER}\nx,m,1,8,5,1,0\nx,m,1,8,6,1,0\n",
            "line 2, column power_mean_w: it is 0; leave it blank where nothing measured it",
        ),
        (
            f'{HEADER}\nx,m,1,8,5,1,1\n"x,m,1,8,5,1,1\n' + "x,m,2,8,5,1,1\n" * 10_000,
            "line 3: the row that begins here cannot be read (field larger than field limit",
        ),
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


def test_a_cell_may_hold_a_line_separator(tmp_path: Path) -> None:
    path = written(tmp_path, "hello\u2028there,m,1,8,5,1,100\n")
    assert chosen(path) == (1, 8)


def test_a_limit_needs_its_column(tmp_path: Path) -> None:
    path = written(tmp_path, "m,1,8,5,1\n", "model,replicas,max_num_seqs,output_tok_s,power_mean_w")
    result = run(path, "--slo-itl-p99", "50ms")
    assert result.exit_code == 1
    assert "column itl_p99_ms is missing" in result.stderr
    result = run(path, "--max-preemptions", "1")
    assert result.exit_code == 1
    assert "column preemptions, prompts is missing" in result.stderr


@pytest.mark.parametrize("text", ["50", "0ms", "fast", "-5ms", "5m"])
def test_a_duration_without_sense_is_refused(published: Path, text: str) -> None:
    result = run(published, f"--slo-itl-p99={text}")
    assert result.exit_code == 1
    assert "write one such as 50ms" in result.stderr


def test_durations() -> None:
    assert [choose.seconds(d) for d in ("50ms", "0.5s", "2s")] == [0.05, 0.5, 2.0]
