"""`slmctl local` as a process: it finds the knee, says what stands in the way, leaves nothing.

The two searches, one for a script and one on a terminal, go on while the other tests run."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import termios
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import yaml

from slm_operator.api.models import SLMService
from slm_operator.cli.local import host
from slm_worker.wire import ROUTER_PORT
from slmctl_process import GONE_SECONDS, Slmctl, until

SIMULATED = ("local", "opt-1.3b", "--gpu", "simulated")
SEARCH = (
    *(*SIMULATED, "--max-num-seqs=256", "--min-window-seconds=4"),
    # Short answers, since a window begins when the first batch has been replaced.
    *("--prompt-tokens=111", "--output-tokens=64"),
)
QUICK = (
    *(*SIMULATED, "--max-num-seqs=16", "--max-replicas=4", "--min-window-seconds=1"),
    *("--output-tokens=16", "--output=json"),
)
"""Measures its first point within seconds."""
SEARCH_SECONDS = 480.0
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")

Start = Callable[..., Slmctl]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    runs: list[Slmctl] = []

    def begin(*arguments: str, path: str | None = None) -> Slmctl:
        env = {} if path is None else {"PATH": path}
        runs.append(Slmctl(tmp_path, *arguments, env=env))
        return runs[-1]

    yield begin
    for run in runs:
        run.clean()


@dataclass
class Terminal:
    """A terminal of 120 columns, and what was written to it."""

    slave: int = field(init=False)
    written: bytes = b""

    def __post_init__(self) -> None:
        self._master, self.slave = os.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def text(self) -> str:
        """All of it, once no process has the terminal open any more."""
        os.close(self.slave)
        self._reader.join(GONE_SECONDS)
        os.close(self._master)
        return ESCAPES.sub("", self.written.decode()).replace("\r\n", "\n")

    def _read(self) -> None:
        while True:
            try:
                self.written += os.read(self._master, 65536)
            except OSError:
                return


@dataclass(frozen=True)
class Searches:
    scripted: Slmctl
    written: Path
    shown: Slmctl
    terminal: Terminal


@pytest.fixture(scope="module")
def searches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searches]:
    """Two at once, which must not take each other's ports or engines."""
    first, second = tmp_path_factory.mktemp("scripted"), tmp_path_factory.mktemp("shown")
    terminal = Terminal()
    scripted = Slmctl(
        first, *SEARCH, "--max-replicas=3", "--output=json", "--write=slmservice.yaml", "--keep"
    )
    shown = Slmctl(
        second, *SEARCH, "--max-replicas=2", stdout=terminal.slave, env={"TERM": "xterm-256color"}
    )
    yield Searches(scripted, first / "slmservice.yaml", shown, terminal)
    for run in (scripted, shown):
        run.clean()


@pytest.fixture(autouse=True)
def begun(searches: Searches) -> None:
    """The searches begin with the first test."""


@pytest.mark.parametrize("moment", ["starting hf://", "measured "])
def test_ctrl_c_leaves_no_process_and_no_file(start: Start, moment: str) -> None:
    run = start(*QUICK)
    run.wait_for_line(moment)
    run.press_ctrl_c()
    assert run.wait(GONE_SECONDS) == 128 + signal.SIGINT, run.told()
    assert run.left_processes() == []
    assert run.left_files() == []
    assert run.printed() == ""


def agent_of(run: Slmctl) -> psutil.Process:
    for child in psutil.Process(run.process.pid).children():
        with contextlib.suppress(psutil.Error):  # one that has just ended
            if child.cmdline()[-2:] == ["-m", "slm_worker"]:
                return child
    raise AssertionError(f"no agent: {run.told()}")


def test_an_agent_that_dies_ends_the_run_and_its_replicas_end_too(start: Start) -> None:
    run = start(*QUICK)
    run.wait_for_line("measuring ")
    agent = agent_of(run)
    assert until(lambda: len(agent.children(recursive=True)) > 3, GONE_SECONDS)
    agent.kill()
    assert run.wait(GONE_SECONDS) == 1
    assert "slmctl: the pack's agent ended by SIGKILL" in run.told()
    assert run.left_processes() == []
    assert run.left_files() == []


def test_a_run_that_is_killed_takes_its_pack_along(start: Start) -> None:
    run = start(*QUICK)
    run.wait_for_line("measuring ")
    run.process.kill()
    run.wait(GONE_SECONDS)
    assert until(lambda: run.left_processes() == [], GONE_SECONDS), run.left_processes()


def test_an_engine_argument_that_is_wrong_is_named_with_the_log(start: Start) -> None:
    run = start(*SIMULATED, "--", "--no-such-argument")
    assert run.wait(GONE_SECONDS) == 1
    said = run.told()
    assert "slmctl: EngineArgumentInvalid: unrecognized arguments: --no-such-argument" in said
    assert "The pack's log ends:" in said
    assert "error: replica 0: EngineArgumentInvalid" in said
    assert run.left_files() == []


def test_an_argument_that_the_agent_owns_is_refused(start: Start) -> None:
    run = start(*SIMULATED, "--", "--port=1")
    assert run.wait(GONE_SECONDS) == 1
    assert "the pack's agent ended with exit code 2: " in run.told()
    assert "engine.args: remove --port: the agent chooses" in run.told()


def test_a_model_that_does_not_fit_is_refused_with_the_sum_and_the_remedy(
    start: Start, tmp_path: Path
) -> None:
    llama_70b = {
        "model_type": "llama",
        "num_hidden_layers": 80,
        "hidden_size": 8192,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "intermediate_size": 28672,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
    }
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "config.json").write_text(json.dumps(llama_70b))
    run = start("local", "./big", "--gpu=simulated")
    assert run.wait(GONE_SECONDS) == 1
    assert "slmctl: DoesNotFit: 0 replicas fit, 1 are wanted" in run.told()
    assert "What would make it fit" in run.told()


@pytest.mark.parametrize(
    ("present", "arguments", "said"),
    [
        ([], SIMULATED, "haproxy is not on PATH, and replicas are routed to by it: install"),
        (["haproxy"], ("local", "x/y", "--gpu=cpu"), "vllm is not on PATH: install it"),
        (["haproxy"], (*SIMULATED, "--write=no/such.yaml"), "no is no directory: make it first"),
        (["haproxy"], (*SIMULATED, "--slo-itl-p95=fast"), "--slo-itl-p95: 'fast' is no duration"),
        (["haproxy"], ("local", "/no/model"), "/no/model does not exist: give the directory"),
    ],
)
def test_what_is_missing_on_the_host_is_named_before_anything_starts(
    start: Start, tmp_path: Path, present: list[str], arguments: tuple[str, ...], said: str
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in present:
        (programs / name).symlink_to(shutil.which(name) or pytest.fail(f"{name} is missing"))
    run = start(*arguments, path=str(programs))
    assert run.wait(GONE_SECONDS) == 1
    assert said in run.told()
    assert run.left_files() == []


def test_a_port_that_is_asked_for_and_taken_is_refused(start: Start) -> None:
    with socket.create_server((host.ADDRESS, 0)) as other:
        port = other.getsockname()[1]
        run = start(*SIMULATED, f"--port={port}")
        assert run.wait(GONE_SECONDS) == 1
    assert f"slmctl: --port {port} of 127.0.0.1 is in use: end the process" in run.told()


def test_usual_ports_that_are_taken_give_way_to_free_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((host.ADDRESS, 0)) as other:
        taken = other.getsockname()[1]
        monkeypatch.setattr(host, "ROUTER_PORT", taken)
        with host.claimed_ports(None) as chosen:
            assert taken not in (chosen.router, chosen.agent)
            assert chosen.router != chosen.agent
    with host.claimed_ports(None) as chosen:
        assert chosen.router == taken


def test_runs_that_begin_at_the_same_moment_choose_different_ports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host, "AGENT_PORT", ROUTER_PORT)
    with host.claimed_ports(None) as one, host.claimed_ports(None) as other:
        assert len({one.agent, one.router, other.agent, other.router}) == 4


def test_it_finds_the_published_knee_and_writes_the_service(searches: Searches) -> None:
    run = searches.scripted
    assert until(lambda: run.printed().endswith("\n"), SEARCH_SECONDS), run.told()
    answer = run.answer()
    knee = answer["knee"]
    assert (knee["replicasPerPack"], knee["maxNumSeqs"]) == (2, 256), answer["why"]
    assert knee["outputTokensPerSecond"] == pytest.approx(10_642, rel=0.1)
    assert knee["powerWatts"] == pytest.approx(443, rel=0.1)
    assert answer["simulated"] is True
    assert answer["calibrationLoad"]["failed"] == 0
    assert answer["decisions"][-1]["reason"] == "KneeFound"
    assert {p["replicasPerPack"] for p in answer["points"]} == {1, 2, 3}
    assert all(p["simulated"] for p in answer["points"])

    written = yaml.safe_load(searches.written.read_text())
    assert written == answer["slmService"]
    assert written["spec"]["engine"] == {"kind": "Simulated", "maxNumSeqs": 256}
    metadata = written["metadata"] | {"namespace": "default", "uid": "u"}
    assert SLMService.from_object(written | {"metadata": metadata}).spec.replicas_per_pack is None


def test_kept_it_serves_by_the_line_that_it_prints_until_ctrl_c(searches: Searches) -> None:
    run = searches.scripted
    assert until(lambda: "serving until Ctrl-C" in run.told(), SEARCH_SECONDS), run.told()
    line = re.search(r"curl (\S+) .* -d '(.*)'", run.told())
    assert line is not None
    request = urllib.request.Request(  # noqa: S310 - the address is the run's own
        line[1], line[2].encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=GONE_SECONDS) as response:  # noqa: S310
        assert json.load(response)["usage"]["completion_tokens"] == 32
    run.press_ctrl_c()
    assert run.wait(GONE_SECONDS) == 0
    assert run.left_processes() == []
    assert run.left_files() == []


def test_on_a_terminal_it_shows_the_search_and_ends_with_the_service(searches: Searches) -> None:
    run = searches.shown
    assert run.wait(SEARCH_SECONDS) == 0, run.told()
    said = searches.terminal.text()
    assert "measuring 1 x 256 ━" in said
    assert "◆ chosen" in said
    assert "The figures are simulated: no GPU was measured." in said
    knee, _, end = said.rpartition("# Measured by slmctl local on Simulated H100")
    assert "2 replicas x 256 is Pareto-optimal" in knee
    measured = re.search(r"# 2 replicas x 256: ([\d,]+) ", end)
    assert measured is not None, end
    assert int(measured[1].replace(",", "")) == pytest.approx(10_642, rel=0.1)
    assert yaml.safe_load("#" + end)["spec"]["engine"]["maxNumSeqs"] == 256
    assert run.left_processes() == []
    assert run.left_files() == []
