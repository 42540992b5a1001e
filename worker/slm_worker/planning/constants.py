"""PURE: the fitted constants, as ``benchmarks/fit_performance.py`` wrote them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources

from slm_worker.planning.steps import Constants


@cache
def folds() -> Mapping[str, Constants]:
    """One set for each choice of rows to fit on, by its name; ``all`` is the one to predict with.
    The others hold rows back, so that the model can be tested on what it never saw."""
    path = resources.files("slm_worker.planning") / "data" / "constants.json"
    stored = json.loads(path.read_text("ascii"))
    return {name: Constants(**values) for name, values in stored["folds"].items()}


def fitted() -> Constants:
    return folds()["all"]
