"""The committed fit: how far it is from the measured rows, with and without having seen them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.performance_errors import (
    FOLDS,
    GOALS,
    Errors,
    Fold,
    cross_validation,
    markdown,
    regime,
    with_table,
)
from slm_worker.planning.catalogue import gpus
from slm_worker.planning.constants import fitted, folds
from slm_worker.planning.measured import MODELS, STUDY_GPU, Row, config_of, points, rows
from slm_worker.planning.pace import pace_of

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def table() -> dict[tuple[str, str, str], Errors]:
    return cross_validation(folds())


@pytest.mark.parametrize(
    ("seen", "unseen"), [("opt-1.3b", "llama-2-7b"), ("llama-2-7b", "opt-1.3b")]
)
@pytest.mark.parametrize("what", GOALS)
def test_a_model_that_was_never_seen_is_predicted_within_the_goals(
    table: dict[tuple[str, str, str], Errors], seen: str, unseen: str, what: str
) -> None:
    assert asdict(table[seen, unseen, "all"])[what] <= GOALS[what]


@pytest.mark.parametrize(
    ("seen", "unseen"),
    [
        ("one replica", "2 and 4 replicas"),
        ("all but 2 replicas", "2 replicas"),
        ("all but 4 replicas", "4 replicas"),
    ],
)
@pytest.mark.parametrize("what", GOALS)
def test_replica_counts_that_were_never_seen_are_predicted_within_the_goals(
    table: dict[tuple[str, str, str], Errors], seen: str, unseen: str, what: str
) -> None:
    assert asdict(table[seen, unseen, "all"])[what] <= GOALS[what]


@pytest.mark.parametrize("fold", FOLDS, ids=lambda fold: f"{fold.name} on {fold.tried_on}")
def test_a_fold_is_tried_on_rows_that_it_was_not_fitted_on(fold: Fold) -> None:
    both = [row for row in rows() if fold.fitted(row) and fold.tried(row)]

    assert (both != []) == (fold.tried_on == "the same rows")


def test_every_regime_has_rows() -> None:
    assert {regime(row) for row in rows()} == {
        "small batch",
        "large batch",
        "KV-bound",
        "replicated",
    }


def test_the_documented_table_is_that_of_the_committed_constants(
    table: dict[tuple[str, str, str], Errors],
) -> None:
    document = (REPOSITORY / "docs/planning.md").read_text()

    assert with_table(document, markdown(table)) == document, "run: make bench NAME=fit_performance"


def test_the_committed_result_is_that_of_the_committed_constants(
    table: dict[tuple[str, str, str], Errors],
) -> None:
    result = json.loads((REPOSITORY / "benchmarks/results/fit_performance.json").read_text())

    for (seen, unseen, name), one in table.items():
        key = f"fitted on {seen}, tried on {unseen}, {name}: throughput percent"
        assert result["figures"][key] == pytest.approx(100 * one.throughput, abs=0.01)


def test_a_document_without_a_place_for_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for the table"):
        with_table("# Planning\n", "| a |\n")


def test_shares_of_the_peak_speed_are_shares() -> None:
    constants = fitted()

    for share in (constants.weight_bandwidth, constants.kv_bandwidth, constants.compute):
        assert 0.2 < share < 1


@pytest.mark.parametrize("row", rows(), ids=lambda r: f"{r.model} {r.replicas}x{r.max_num_seqs}")
def test_a_point_that_was_measured_twice_was_measured_alike(row: Row) -> None:
    counts = points(row.model, chunked_prefill=row.chunked_prefill)[row.replicas, row.max_num_seqs]

    assert counts.tokens_per_second == pytest.approx(row.tokens_per_second, rel=0.02)
    assert counts.watts == pytest.approx(row.watts, rel=0.07)


@pytest.mark.parametrize("model", [model.name for model in MODELS])
def test_a_pace_reproduces_every_measured_row(model: str) -> None:
    pace = pace_of(config_of(model), gpus()[STUDY_GPU])

    for (replicas, batch), row in points(model).items():
        speed = pace.tokens_per_second(replicas, batch)
        assert speed == pytest.approx(row.tokens_per_second)
        assert pace.watts(replicas, batch) == pytest.approx(row.watts)
        assert pace.step_seconds([batch] * replicas, 0) == pytest.approx(replicas * batch / speed)
