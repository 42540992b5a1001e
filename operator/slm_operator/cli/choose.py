"""``slmctl choose``: the same choice as the operator's, among points of a file. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from slm_operator.cli.points_file import Row
from slm_operator.pareto.choice import Judgement, judge
from slm_operator.pareto.objective import Limits, Objective
from slm_operator.pareto.points import OperatingPoint
from slm_operator.pareto.repeats import pooled

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s)")


@dataclass(frozen=True)
class ModelChoice:
    """What was found for one model."""

    model: str
    judgement: Judgement
    points: int
    """Distinct ones; rows that repeat a point were pooled."""
    rows: int


def seconds(duration: str) -> float:
    """``50ms`` or ``0.5s``. Raises ValueError with the remedy."""
    match = _DURATION.fullmatch(duration.strip())
    if match is None or float(match[1]) == 0:
        raise ValueError(f"{duration!r} is no duration above zero: write one such as 50ms or 0.5s")
    return float(match[1]) / (1000 if match[2] == "ms" else 1)


def choices(rows: Iterable[Row], objective: Objective, limits: Limits) -> list[ModelChoice]:
    """One for each model, in the file's order."""
    by_model: dict[str, list[Row]] = {}
    for row in rows:
        by_model.setdefault(row.model, []).append(row)
    return [_choice(model, own, objective, limits) for model, own in by_model.items()]


def document(found: Sequence[ModelChoice]) -> list[dict[str, Any]]:
    """For scripts; figures in the units that their names give."""
    return [
        {
            "model": one.model,
            "rows": one.rows,
            "points": one.points,
            "chosen": next(
                ({**_figures(v.point), "why": v.why} for v in one.judgement.verdicts if v.chosen),
                None,
            ),
            "why": one.judgement.sentence,
            "frontier": [_figures(v.point) for v in one.judgement.verdicts if v.on_frontier],
            "rejected": [
                {**_figures(v.point), "why": v.why} for v in one.judgement.verdicts if not v.chosen
            ],
        }
        for one in found
    ]


def text(found: Sequence[ModelChoice]) -> RenderableType:
    """A table for each model, and what was chosen and why."""
    parts: list[RenderableType] = []
    for one in found:
        table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
        table.add_column("", no_wrap=True)
        for name in ("REPLICAS", "BATCH", "TOK/S", "W", "J/TOKEN", "ITL P99", "RUNS"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("FRONTIER", no_wrap=True)
        table.add_column("WHY NOT")
        for verdict in one.judgement.verdicts:
            table.add_row(
                "◆" if verdict.chosen else "",
                *_cells(verdict.point),
                "yes" if verdict.on_frontier else "no",
                "" if verdict.chosen else verdict.why,
                style="bold" if verdict.chosen else "",
            )
        parts += [Text(one.model, style="bold"), table, Text(one.judgement.sentence), Text()]
    return Group(*parts[:-1])


def _choice(model: str, rows: list[Row], objective: Objective, limits: Limits) -> ModelChoice:
    points = pooled([row.point for row in rows])
    note = ""
    if len(points) < len(rows):
        note = (
            f"repeats were averaged ({len(rows)} rows, {len(points)} distinct points), and tell "
            "how far figures may differ without meaning"
        )
    return ModelChoice(model, judge(points, objective, limits, note), len(points), len(rows))


def _figures(point: OperatingPoint) -> dict[str, Any]:
    energy, itl = point.joules_per_output_token, point.itl_p99_seconds
    return {
        "replicas": point.probe.replicas,
        "maxNumSeqs": point.probe.max_num_seqs,
        "runs": point.runs,
        "outputTokensPerSecond": round(point.output_tokens_per_second, 3),
        "confidenceTokensPerSecond": round(point.confidence_tokens_per_second, 3),
        "powerWatts": None if point.power_watts is None else round(point.power_watts, 3),
        "microjoulesPerOutputToken": None if energy is None else round(energy * 1e6),
        "itlP99Milliseconds": None if itl is None else round(itl * 1000, 3),
        "preemptionsPerRequest": point.preemptions_per_request,
    }


def _cells(point: OperatingPoint) -> tuple[str, ...]:
    energy, itl = point.joules_per_output_token, point.itl_p99_seconds
    return (
        str(point.probe.replicas),
        str(point.probe.max_num_seqs),
        f"{point.output_tokens_per_second:,.0f}",
        "-" if point.power_watts is None else f"{point.power_watts:,.0f}",
        "-" if energy is None else f"{energy:.4f}",
        "-" if itl is None else f"{itl * 1000:,.0f} ms",
        str(point.runs),
    )
