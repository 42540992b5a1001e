"""`slmctl demo` as `make demo` runs it: it finds the published knee, and leaves only its report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo_run import KNEE_SECONDS, Start, assert_it_found_the_published_knee, runs_in


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    yield from runs_in(tmp_path)


@pytest.mark.timeout(KNEE_SECONDS + 180)
def test_the_demo_finds_the_published_knee_and_leaves_only_its_report(start: Start) -> None:
    run = start()
    assert run.wait(KNEE_SECONDS) == 0, run.told()
    answer = run.answer()
    assert_it_found_the_published_knee(answer)
    assert all(p["saturatedPercent"] >= 95 and p["windowSeconds"] >= 27 for p in answer["points"])
    assert "2 replicas x 256 is Pareto-optimal" in run.report()
    assert run.left_processes() == []
    assert run.left_files() == []
