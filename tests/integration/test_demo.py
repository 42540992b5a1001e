"""`slmctl demo` as a process: it finds the knee, survives its operator's death, leaves nothing."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from slm_operator.cli import demo
from slm_operator.cli.outcome import DemoFailedError, Options
from slm_operator.cli.preparation import Prepared, prepare
from slmctl_process import GONE_SECONDS, Slmctl, until

SHORT = "--min-window-seconds=10"


class Run(Slmctl):
    """A demo."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        super().__init__(folder, "demo", "--output", "json", *arguments)
        self._page = folder / "report" / "demo-simulated.html"

    def report(self) -> str:
        return self._page.read_text()


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
    assert run.told().count("measured 2 replicas x 256 (of 3 started)") == 1


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
