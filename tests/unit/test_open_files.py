"""Agent, operator and activator may have more files open than a container's soft limit of 1,024:
the calibration load of 4 replicas of 256 sequences alone keeps 1,224 connections."""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Callable, Iterator

import pytest
import typer
from typer.testing import CliRunner

import slm_operator.activator.main
import slm_operator.main
import slm_worker.main
from slm_worker.open_files import allow_open_files

INFINITY = resource.RLIM_INFINITY
BILLION = 1_073_741_816


@pytest.fixture
def low() -> Iterator[int]:
    """The soft limit of this process, lowered."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    yield 512
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def run_agent() -> int:
    return slm_worker.main.run()


def run_operator() -> int:
    return _run(slm_operator.main.start)


def run_activator() -> int:
    return _run(slm_operator.activator.main.start)


def _run(start: Callable[..., None]) -> int:
    app = typer.Typer()
    app.command()(start)
    return CliRunner().invoke(app, []).exit_code


@pytest.mark.parametrize("run", [run_agent, run_operator, run_activator])
def test_a_program_raises_its_limit_before_anything_else(
    low: int, run: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in os.environ:
        if name.startswith("SLM_"):
            monkeypatch.delenv(name)
    assert run() == 2  # nothing is set, so it does not go on
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == (min(hard, 65_536) if hard != INFINITY else 65_536) > low


class Limits:
    """The kernel's."""

    def __init__(self, soft: int, hard: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = (soft, hard)
        self.refuses = False
        monkeypatch.setattr(resource, "getrlimit", lambda _: self.now)
        monkeypatch.setattr(resource, "setrlimit", self._set)

    def _set(self, _: int, limits: tuple[int, int]) -> None:
        if self.refuses:
            raise PermissionError
        self.now = limits


@pytest.mark.parametrize(
    ("soft", "hard", "raised"),
    [
        (1024, 524_288, 65_536),
        (1024, 20_000, 20_000),
        (1024, BILLION, 65_536),
        (1024, INFINITY, 65_536),
        (BILLION, BILLION, BILLION),
        (INFINITY, INFINITY, INFINITY),
    ],
    ids=["containerd 2", "a low hard limit", "a huge one", "none", "already huge", "already none"],
)
def test_the_soft_limit_goes_as_far_as_is_allowed_and_of_use(
    soft: int,
    hard: int,
    raised: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = Limits(soft, hard, monkeypatch)
    allow_open_files()
    assert limits.now == (raised, hard)
    assert not caplog.records


@pytest.mark.parametrize(("hard", "refuses"), [(1024, False), (524_288, True)])
def test_where_few_are_allowed_the_log_says_so_with_the_remedy(
    hard: int,
    refuses: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = Limits(1024, hard, monkeypatch)
    limits.refuses = refuses
    with caplog.at_level(logging.WARNING):
        allow_open_files()
    assert limits.now == (1024, hard)
    [said] = caplog.messages
    assert "only 1024 files and connections may be open at once" in said
    assert "LimitNOFILE" in said
