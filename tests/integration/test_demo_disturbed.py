"""`slmctl demo` whose operator or whose own process is ended, or whose pack cannot start."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from demo_run import KNEE_SECONDS, Start, assert_it_found_the_published_knee, runs_in
from slm_operator.cli import demo
from slm_operator.cli.outcome import DemoFailedError, Options
from slm_operator.cli.preparation import Prepared, prepare
from slmctl_process import GONE_SECONDS, until

SHORT = "--min-window-seconds=10"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    yield from runs_in(tmp_path)


@pytest.mark.timeout(KNEE_SECONDS + 180)
def test_the_search_resumes_after_the_operators_death_and_no_request_fails(start: Start) -> None:
    run = start("--kill-operator", SHORT)
    assert run.wait(KNEE_SECONDS) == 0, run.told()
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
    monkeypatch.setattr(demo, "STUCK_SECONDS", 15.0)
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
