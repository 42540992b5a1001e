"""Files that commands write: `slmctl local --write`, and the demo's report."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli_builders import answer, outcome
from slm_operator.cli import demo, local_command, output_file
from slm_operator.cli.app import app
from slm_operator.cli.local.run import Present
from slm_operator.cli.output_file import OutputFileError


def test_a_file_that_can_be_written_is_left_as_it_is_by_the_check(tmp_path: Path) -> None:
    there, absent, link = tmp_path / "there", tmp_path / "absent", tmp_path / "link"
    there.write_text("old")
    link.symlink_to(tmp_path / "target")
    for file in (there, absent, link):
        output_file.check("--write", file)
    assert there.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "there"]
    assert link.is_symlink()


def test_the_check_names_option_value_cause_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(OutputFileError, match=r"--write .*no/f: .*no is no directory: make it"):
        output_file.check("--write", tmp_path / "no" / "f")
    # Root may write everywhere; nobody may have so long a name.
    with pytest.raises(OutputFileError, match=r"--write .*xx: cannot be written \(.+\): give a"):
        output_file.check("--write", tmp_path / ("x" * 300))


def test_a_file_is_in_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    file = tmp_path / "service.yaml"
    script = (
        "import pathlib, sys; from slm_operator.cli import output_file; "
        "output_file.write('--write', pathlib.Path(sys.argv[1]), '10,640 \\u00b1 31 tok/s')"
    )
    # Python itself would take UTF-8 for the locale C.
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    search_path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(
        [sys.executable, "-c", script, str(file)], env=ascii_alone | search_path, check=True
    )
    assert file.read_text("utf-8") == "10,640 ± 31 tok/s"


def search(monkeypatch: pytest.MonkeyPatch, write: Path, *options: str) -> Result:
    """`slmctl local` with a search that finds at once."""

    def run(wanted: object, settings: object, progress: object, present: Present) -> None:
        present(answer())

    monkeypatch.setattr(local_command, "run", run)
    monkeypatch.setenv("COLUMNS", "200")
    return CliRunner().invoke(
        app, ["local", "opt-1.3b", "--gpu=simulated", f"--write={write}", *options]
    )


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        ("text", ["is Pareto-optimal", "kind: SLMService"]),
        ("json", ['"knee"']),
        ("yaml", ["kind: SLMService"]),
    ],
)
def test_what_local_found_is_shown_also_where_its_file_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, output: str, shown: list[str]
) -> None:
    result = search(monkeypatch, Path("/dev/full"), f"--output={output}")
    assert [text for text in shown if text not in result.stdout] == []
    assert result.exit_code == 1
    assert (
        result.stderr == "slmctl: --write /dev/full: cannot be written (No space left on device): "
        "give a file that can be\n"
    )


def test_local_measures_nothing_for_a_file_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result = search(monkeypatch, tmp_path / ("x" * 300))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "cannot be written" in result.stderr


def test_local_writes_the_service_that_it_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert search(monkeypatch, tmp_path / "slm.yaml").exit_code == 0
    assert "kind: SLMService" in (tmp_path / "slm.yaml").read_text()


def test_the_demo_begins_only_where_its_report_can_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    demo.check_report("simulated")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "report").write_text("in the way")
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 1
    assert "the report's folder report cannot be made here" in result.stderr


def test_the_demos_report_is_a_page_with_its_picture_beside_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    found = outcome()
    demo.write_report(found)
    page = demo.report_page(found.engine)
    assert page.is_file() and page.with_suffix(".svg").is_file()
