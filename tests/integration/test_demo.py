"""`slmctl demo` as a process: it finds the knee, survives its operator's death, leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from slm_operator.cli import demo
from slm_operator.cli.outcome import DemoFailedError, Options
from slm_operator.cli.preparation import Prepared, prepare

SLMCTL = [sys.executable, "-c", "from slm_operator.cli.app import main; main()"]
SHORT = "--min-window-seconds=10"
GONE_SECONDS = 60.0


class Run:
    """A demo whose files lie under a folder of its own, by which its processes are known."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        # Short, since sockets lie below it.
        self._temporary = Path(tempfile.mkdtemp(prefix="slmd-"))
        self._folder = folder
        self._out, self._err = folder / "out", folder / "err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*SLMCTL, "demo", "--output", "json", *arguments],
                cwd=folder,
                env={**os.environ, "TMPDIR": str(self._temporary)},
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def wait(self, seconds: float) -> int:
        return self.process.wait(seconds)

    def wait_for_line(self, text: str) -> None:
        """Waits until the demo has told ``text``."""

        def told() -> bool:
            assert self.process.poll() is None, self.told()
            return text in self.told()

        assert until(told, 120), self.told()

    def told(self) -> str:
        return self._err.read_text()

    def answer(self) -> dict[str, Any]:
        """The document on stdout, which is all that is there."""
        document: dict[str, Any] = json.loads(self._out.read_text())
        return document

    def report(self) -> str:
        return (self._folder / "report" / "demo-simulated.html").read_text()

    def left_processes(self) -> list[str]:
        """Command lines of what runs with, or in, this run's folder."""
        mark = str(self._temporary).encode()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                command = (entry / "cmdline").read_bytes()
                traces = [
                    command,
                    (entry / "environ").read_bytes(),
                    bytes((entry / "cwd").readlink()),
                ]
            except OSError:
                continue
            if command and any(mark in trace for trace in traces):
                found.append(f"{entry.name}: {command.decode(errors='replace')}")
        return found

    def left_files(self) -> list[str]:
        return sorted(str(p) for p in self._temporary.iterdir())

    def clean(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(GONE_SECONDS)
        shutil.rmtree(self._temporary, ignore_errors=True)


Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    runs: list[Run] = []

    def begin(*arguments: str) -> Run:
        runs.append(Run(tmp_path, *arguments))
        return runs[-1]

    yield begin
    for run in runs:
        run.clean()


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether ``condition`` came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def assert_it_found_the_published_knee(answer: dict[str, Any]) -> None:
    knee = answer["knee"]
    assert (knee["replicasPerPack"], knee["maxNumSeqs"]) == (2, 256), answer["why"]
    assert knee["outputTokensPerSecond"] == pytest.approx(10_642, rel=0.1)
    assert knee["powerWatts"] == pytest.approx(443, rel=0.1)
    assert answer["simulated"] is True
    assert answer["decisions"][-1]["reason"] == "KneeFound"
    assert answer["requests"]["failed"] == 0
    assert answer["requests"]["sent"] == answer["requests"]["completed"] > 0


def test_the_demo_finds_the_published_knee_and_leaves_only_its_report(start: Start) -> None:
    run = start()
    assert run.wait(480) == 0, run.told()
    answer = run.answer()
    assert_it_found_the_published_knee(answer)
    assert all(p["saturatedPercent"] >= 95 and p["windowSeconds"] >= 27 for p in answer["points"])
    assert "2 replicas x 256 is Pareto-optimal" in run.report()
    assert run.left_processes() == []
    assert run.left_files() == []


def test_the_search_resumes_after_the_operators_death_and_no_request_fails(start: Start) -> None:
    run = start("--kill-operator", SHORT)
    assert run.wait(480) == 0, run.told()
    answer = run.answer()
    assert answer["operatorKills"] == 1
    assert_it_found_the_published_knee(answer)
    measured = [
        (p["layoutReplicas"], p["replicasPerPack"], p["maxNumSeqs"]) for p in answer["points"]
    ]
    assert len(measured) == len(set(measured))
    assert run.told().count("measured 1 replica x 256 (of 4 started)") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("moment", ["starting etcd", "applied", "clients send"])
def test_a_signal_takes_everything_down(start: Start, moment: str, number: signal.Signals) -> None:
    run = start(SHORT)
    run.wait_for_line(moment)
    run.process.send_signal(number)
    assert run.wait(GONE_SECONDS) == 128 + number, run.told()
    assert run.left_processes() == []
    assert run.left_files() == []


def test_a_killed_demo_leaves_nothing_either(start: Start) -> None:
    run = start(SHORT)
    run.wait_for_line("clients send")
    run.process.kill()
    run.wait(GONE_SECONDS)
    assert until(lambda: run.left_processes() == [], GONE_SECONDS), run.left_processes()
    assert until(lambda: run.left_files() == [], GONE_SECONDS), run.left_files()


def test_a_pack_that_cannot_start_ends_the_demo_with_its_reason_and_logs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(demo, "STUCK_SECONDS", 2.0)
    options = Options("simulated", keep=False, kill_operator=False, min_window_seconds=10)

    def broken(options: Options, say: Callable[[str], None]) -> Prepared:
        prepared = prepare(options, say)
        prepared.manifest["spec"]["engine"]["args"] = ["--no-such-argument"]
        return prepared

    monkeypatch.setattr(demo, "prepare", broken)
    with pytest.raises(DemoFailedError) as failure:
        demo.run(options, Console(), lambda outcome, page: pytest.fail("there is no outcome"))
    text = str(failure.value)
    assert "Ready condition: EngineArgumentInvalid" in text
    assert "The pack's log ends:" in text
    assert "--no-such-argument" in text
    assert "The operator's log ends:" in text
