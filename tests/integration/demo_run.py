"""`slmctl demo` as a process, and what its answer has to be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slmctl_process import Slmctl

KNEE_SECONDS = 900
"""More than enough for a demo that goes to its end."""


class Run(Slmctl):
    """A demo."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        super().__init__(folder, "demo", "--output", "json", *arguments)
        self._page = folder / "report" / "demo-simulated.html"

    def report(self) -> str:
        return self._page.read_text()


Start = Callable[..., Run]


def runs_in(folder: Path) -> Iterator[Start]:
    """Starts demos with the arguments that it is given, and cleans up after them."""
    runs: list[Run] = []

    def begin(*arguments: str) -> Run:
        runs.append(Run(folder, *arguments))
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
