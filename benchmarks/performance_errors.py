"""How far predictions are from the measured rows: by choice of what was fitted, and by regime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from statistics import mean

from slm_worker.planning.catalogue import gpus
from slm_worker.planning.measured import STUDY_DTYPE, STUDY_GPU, Row, config_of, rows
from slm_worker.planning.performance import Predictor, Simulated, predictor_of
from slm_worker.planning.steps import Constants

GOALS = {"throughput": 0.06, "power": 0.08, "itl": 0.10}
"""Greatest mean absolute error of a model that took no part in the fit."""
SMALL_BATCH = 16
KV_FULL = 0.95
"""Greatest share of the KV cache in use from which on it bounds the batch."""
BEGIN, END = "<!-- cross-validation: written by fit_performance -->\n", "<!-- end -->\n"
REGIMES = ("small batch", "large batch", "KV-bound", "replicated")


@dataclass(frozen=True)
class Fold:
    """What one set of constants was fitted on, and on what it is tried."""

    name: str
    """Of the constants."""
    tried_on: str
    fitted: Callable[[Row], bool]
    tried: Callable[[Row], bool]


FOLDS = (
    Fold("all", "the same rows", lambda r: not r.chunked_prefill, lambda r: not r.chunked_prefill),
    Fold(
        "opt-1.3b",
        "llama-2-7b",
        lambda r: r.model == "opt-1.3b" and not r.chunked_prefill,
        lambda r: r.model == "llama-2-7b",
    ),
    Fold(
        "llama-2-7b",
        "opt-1.3b",
        lambda r: r.model == "llama-2-7b",
        lambda r: r.model == "opt-1.3b" and not r.chunked_prefill,
    ),
    Fold(
        "one replica",
        "2 and 4 replicas",
        lambda r: r.replicas == 1 and not r.chunked_prefill,
        lambda r: r.replicas > 1,
    ),
    Fold(
        "all but 2 replicas",
        "2 replicas",
        lambda r: r.replicas != 2 and not r.chunked_prefill,
        lambda r: r.replicas == 2,
    ),
    Fold(
        "all but 4 replicas",
        "4 replicas",
        lambda r: r.replicas != 4 and not r.chunked_prefill,
        lambda r: r.replicas == 4,
    ),
    Fold(
        "all",
        "chunked prefill",
        lambda r: not r.chunked_prefill,
        lambda r: r.chunked_prefill,
    ),
)


@dataclass(frozen=True)
class Errors:
    """Mean absolute errors as fractions of what was measured."""

    rows: int
    throughput: float
    power: float
    itl: float


def regime(row: Row) -> str:
    """Replicas first: their rows are few."""
    if row.replicas > 1:
        return "replicated"
    if row.preemptions or row.kv_cache_peak >= KV_FULL:
        return "KV-bound"
    return "small batch" if row.max_num_seqs <= SMALL_BATCH else "large batch"


def predictor(row: Row, constants: Constants) -> Predictor:
    return predictor_of(
        config_of(row.model),
        gpus()[STUDY_GPU],
        dtype=STUDY_DTYPE,
        chunked_prefill=row.chunked_prefill,
        constants=constants,
    )


@cache
def predicted(row: Row, constants: Constants) -> Simulated:
    """By the model alone."""
    return predictor(row, constants).simulate(row.replicas, row.max_num_seqs)


def errors(of: Iterable[Row], constants: Constants) -> Errors:
    """Raises StatisticsError without rows."""
    pairs = [(row, predicted(row, constants).figures) for row in of]
    return Errors(
        rows=len(pairs),
        throughput=mean(abs(f.tokens_per_second / r.tokens_per_second - 1) for r, f in pairs),
        power=mean(abs(f.watts / r.watts - 1) for r, f in pairs),
        itl=mean(abs(f.itl_seconds / r.itl_seconds - 1) for r, f in pairs),
    )


def cross_validation(folds: Mapping[str, Constants]) -> dict[tuple[str, str, str], Errors]:
    """By fitted rows, tried rows and regime; regime ``all`` first, then those that have rows."""
    table = {}
    for fold in FOLDS:
        tried = [row for row in rows() if fold.tried(row)]
        for name in ("all", *REGIMES):
            own = [row for row in tried if name in {"all", regime(row)}]
            if own:
                table[fold.name, fold.tried_on, name] = errors(own, folds[fold.name])
    return table


def markdown(table: Mapping[tuple[str, str, str], Errors]) -> str:
    """The table as docs/planning.md has it."""
    lines = [
        "| fitted on | tried on | regime | rows | throughput | power | ITL |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {fitted} | {tried} | {name} | {one.rows} | {one.throughput:.1%} | {one.power:.1%} "
        f"| {one.itl:.1%} |"
        for (fitted, tried, name), one in table.items()
    ]
    return "\n".join(lines) + "\n"


def with_table(document: str, table: str) -> str:
    """``document`` with ``table`` in place of the one between its marks. Raises ValueError without
    marks."""
    head, begin, rest = document.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document has no place for the table: add {BEGIN}{END}")
    return head + begin + table + end + tail
