"""Measured points from a CSV file with the columns of the published measurements. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from slm_operator import csv_file
from slm_operator.csv_file import Cells
from slm_operator.pareto.points import OperatingPoint, Probe

COLUMNS = ("model", "replicas", "max_num_seqs", "output_tok_s", "power_mean_w")
"""What a choice needs; ``power_mean_w`` may be blank where nothing measured it."""
ITL_P99 = "itl_p99_ms"
PREEMPTIONS = ("preemptions", "prompts")
"""How many, and of how many requests. These columns are needed for a limit of them alone."""


class PointsFileError(Exception):
    """The file cannot be used; the text names line and column, value and remedy."""


@dataclass(frozen=True)
class Row:
    """One line of the file."""

    line: int
    model: str
    point: OperatingPoint
    cells: Cells
    """What it says in columns that a choice does not need, too."""


def parse(text: str, also_needed: Sequence[str] = ()) -> list[Row]:
    """Every row, in the file's order. Raises PointsFileError."""
    try:
        found = csv_file.rows(text, (*COLUMNS, *also_needed), "point")
        return [_row(line, cells) for line, cells in found]
    except csv_file.CsvFileError as error:
        raise PointsFileError(str(error)) from None


def _row(line: int, cells: Cells) -> Row:
    model = (cells["model"] or "").strip()
    if not model:
        raise PointsFileError(f"line {line}, column model: it is blank; name the model")
    replicas, batch = (_whole(line, name, cells[name]) for name in ("replicas", "max_num_seqs"))
    power = _number(line, "power_mean_w", cells["power_mean_w"], may_be_blank=True)
    if power == 0:
        raise PointsFileError(
            f"line {line}, column power_mean_w: it is 0; leave it blank where nothing measured it"
        )
    itl_milliseconds = _number(line, ITL_P99, cells.get(ITL_P99), may_be_blank=True)
    preemptions, prompts = (
        _number(line, name, cells.get(name), may_be_blank=True) for name in PREEMPTIONS
    )
    return Row(
        line,
        model,
        OperatingPoint.without_window(
            Probe(replicas, replicas, batch),
            _positive(line, "output_tok_s", cells["output_tok_s"]),
            power,
            simulated=False,
            itl_p99_seconds=None if itl_milliseconds is None else itl_milliseconds / 1000,
            preemptions_per_request=preemptions / prompts
            if preemptions is not None and prompts
            else None,
        ),
        cells,
    )


def _number(line: int, column: str, cell: str | None, *, may_be_blank: bool) -> float | None:
    text = (cell or "").strip()
    if not text and may_be_blank:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise PointsFileError(f"line {line}, column {column}: {text!r} is no number; write one")
    if value < 0:
        raise PointsFileError(f"line {line}, column {column}: {text} is negative; correct it")
    return value


def _positive(line: int, column: str, cell: str | None) -> float:
    value = _number(line, column, cell, may_be_blank=False)
    if not value:
        raise PointsFileError(f"line {line}, column {column}: it is 0; remove the row of this run")
    return value


def _whole(line: int, column: str, cell: str | None) -> int:
    value = _positive(line, column, cell)
    if not value.is_integer():
        raise PointsFileError(f"line {line}, column {column}: {cell} is no whole number; write one")
    return int(value)
