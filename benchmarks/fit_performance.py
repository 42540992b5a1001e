"""Fits the constants of `slmctl plan` to measured rows, and cross-validates them.

Writes the constants of every fold to worker/slm_worker/planning/data/constants.json, the errors to
benchmarks/results/fit_performance.json and their table into docs/planning.md. Run with
``python -m benchmarks.fit_performance``; it takes some minutes.

The fit is robust (soft L1): single rows are off by 20 % in power. Each constant has a
prior: a guess from physics and how far it may be off, so that rows of one model alone, which cannot
tell all of them apart, leave the others where they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from benchmarks.performance_errors import (
    FOLDS,
    GOALS,
    cross_validation,
    markdown,
    predicted,
    with_table,
)
from benchmarks.report import Figure, write
from slm_worker.planning.catalogue import gpus
from slm_worker.planning.measured import STUDY_GPU, Row, rows
from slm_worker.planning.steps import Constants

CONSTANTS = Path("worker/slm_worker/planning/data/constants.json")
DOCUMENT = Path("docs/planning.md")
THROUGHPUT_NOISE, ITL_NOISE, POWER_NOISE, BUSY_NOISE = 0.03, 0.04, 0.05, 0.05
"""What a row may be off without meaning: of the first three as a fraction, of the last (share of
time with a kernel running) absolutely."""


@dataclass(frozen=True)
class Prior:
    guess: float
    spread: float
    """Standard deviation of its logarithm."""


TIMES = {
    # DRAM gives 90 % to long reads at best; layers of small models are short ones.
    "weight_bandwidth": Prior(0.78, 0.1),
    "kv_bandwidth": Prior(0.7, 0.2),
    "compute": Prior(0.5, 0.3),
    # a dozen kernels of some 4 microseconds each
    "layer_seconds": Prior(50e-6, 0.25),
    # as many launches from Python at 25 microseconds each
    "launch_seconds": Prior(300e-6, 0.5),
    "step_seconds": Prior(0.5e-3, 0.7),
    "sequence_seconds": Prior(35e-6, 0.7),
    "waiting_seconds": Prior(15e-6, 0.7),
}
POWERS = {
    "busy_power": Prior(0.12, 0.7),
    "weight_power": Prior(0.25, 0.7),
    "kv_power": Prior(0.7, 0.7),
    "compute_power": Prior(1.0, 0.7),
    "crowd_power": Prior(0.08, 0.7),
}


def fit(of: Sequence[Row]) -> Constants:
    """Times first: power does not change them."""
    no_power = dict.fromkeys(POWERS, 0.0)

    def pace(logarithms: Sequence[float]) -> list[float]:
        constants = Constants(
            **dict(zip(TIMES, map(math.exp, logarithms), strict=True)), **no_power
        )
        return [
            *(one for row in of for one in _pace_residuals(row, constants)),
            *_from_priors(TIMES, logarithms),
        ]

    times = dict(zip(TIMES, _solve(pace, TIMES), strict=True))
    runs = [predicted(row, Constants(**times, **no_power)) for row in of]
    gpu = gpus()[STUDY_GPU]
    activities = np.array([astuple(run.activity) for run in runs])
    measured = np.array([row.watts for row in of])

    def power(logarithms: Sequence[float]) -> list[float]:
        shares = activities @ np.exp(logarithms)
        watts = gpu.idle_watts + (gpu.max_watts - gpu.idle_watts) * shares
        return [*(np.log(watts / measured) / POWER_NOISE), *_from_priors(POWERS, logarithms)]

    return Constants(**times, **dict(zip(POWERS, _solve(power, POWERS), strict=True)))


def _pace_residuals(row: Row, constants: Constants) -> list[float]:
    run = predicted(row, constants)
    speed, itl = run.figures.tokens_per_second, run.figures.itl_seconds
    found = [
        math.log(speed / row.tokens_per_second) / THROUGHPUT_NOISE,
        math.log(itl / row.itl_seconds) / ITL_NOISE,
    ]
    if row.replicas == 1:  # with more, the GPU is always busy
        found.append((run.activity.busy - row.busy_share) / BUSY_NOISE)
    return found


def _from_priors(priors: dict[str, Prior], logarithms: Sequence[float]) -> list[float]:
    return [
        (value - math.log(prior.guess)) / prior.spread
        for prior, value in zip(priors.values(), logarithms, strict=True)
    ]


def _solve(
    residuals: Callable[[Sequence[float]], list[float]], priors: dict[str, Prior]
) -> list[float]:
    start = [math.log(prior.guess) for prior in priors.values()]
    # Events of a run come and go with the constants: a derivative needs a step above that grain.
    found = least_squares(residuals, start, loss="soft_l1", diff_step=1e-3, max_nfev=12)
    return [float(f"{value:.4g}") for value in np.exp(found.x)]


def main() -> None:
    folds = {}
    for fold in FOLDS:
        if fold.name not in folds:
            folds[fold.name] = fit([row for row in rows() if fold.fitted(row)])
    stored = {"folds": {name: asdict(constants) for name, constants in folds.items()}}
    CONSTANTS.write_text(json.dumps(stored, indent=2) + "\n")
    table = cross_validation(folds)
    figures: dict[str, Figure] = {
        f"fitted on {fitted}, tried on {tried}, {name}: {what} percent": round(100 * value, 2)
        for (fitted, tried, name), one in table.items()
        for what, value in asdict(one).items()
        if what != "rows"
    }
    for fitted, tried in (("opt-1.3b", "llama-2-7b"), ("llama-2-7b", "opt-1.3b")):
        unseen = asdict(table[fitted, tried, "all"])
        figures[f"{tried} unseen, goals met"] = all(unseen[k] <= v for k, v in GOALS.items())
    write("fit_performance", figures, command="python -m benchmarks.fit_performance")
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(), markdown(table)))


if __name__ == "__main__":
    main()
