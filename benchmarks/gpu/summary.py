"""The windows of a sweep as one table and one plot, with the point that the operator would choose.

``python -m benchmarks.gpu.summary DIR --name NAME`` writes benchmarks/results/NAME.json and
NAME.svg. Windows that are no measurement are listed, and count for nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import report
from benchmarks.gpu.points import Point
from slm_operator.cli.picture import Mark, Picture
from slm_operator.cli.svg import svg
from slm_operator.pareto.choice import Choice, choose
from slm_operator.pareto.objective import Objective
from slm_operator.pareto.points import OperatingPoint, Probe

Record = Mapping[str, Any]


class NothingMeasuredError(Exception):
    """No window of the sweep is a measurement; the text says what was wrong with each."""


@dataclass(frozen=True)
class Summary:
    """``windows``: those that count, in the order in which they were measured, by point."""

    choice: Choice
    windows: Mapping[Point, Sequence[Record]]
    spoilt: tuple[str, ...]
    simulated: bool
    title: str
    sharing: str
    lengths: str


def read(folder: Path) -> list[Record]:
    """Every window of a sweep, in its order."""
    return [json.loads(file.read_text()) for file in sorted(folder.glob("[0-9]*-*.json"))]


def summarize(records: Sequence[Record]) -> Summary:
    """Raises NothingMeasuredError."""
    windows: dict[Point, list[Record]] = defaultdict(list)
    spoilt = []
    for record in records:
        point = Point(record["replicas"], record["max_num_seqs"], record["layout_replicas"])
        if record["window"]["spoilt"]:
            spoilt.append(f"{point}: {record['window']['spoilt']}")
        else:
            windows[point].append(record)
    if not windows:
        raise NothingMeasuredError(f"no window is a measurement: {'; '.join(spoilt) or 'none yet'}")
    first = records[0]
    shared = {one["sharing"] for one in records if one["replicas"] > 1}
    return Summary(
        choice=choose((_mean(point, of) for point, of in windows.items()), Objective()),
        windows=dict(sorted(windows.items())),
        spoilt=tuple(spoilt),
        simulated=any(record["simulated"] for record in records),
        title=f"{first['model']} on {first['gpu']['name']}",
        sharing="; ".join(sorted(shared)) or "alone",
        lengths=first["lengths"],
    )


def figures(summary: Summary) -> dict[str, report.Figure]:
    """Means over the windows of each point, and what each is to one replica at its best batch."""
    means = {point: _mean(point, windows) for point, windows in summary.windows.items()}
    best_single = max(
        (mean.output_tokens_per_second for point, mean in means.items() if point.replicas == 1),
        default=None,
    )
    found: dict[str, report.Figure] = {
        "simulated": summary.simulated,
        "model_and_gpu": summary.title,
        "lengths": summary.lengths,
        "weights": "dummy: their values change neither throughput nor power",
        "sharing": summary.sharing,
        "windows": sum(map(len, summary.windows.values())),
        "windows_spoilt": len(summary.spoilt),
    }
    for point, windows in summary.windows.items():
        mean = means[point]
        each = [one["window"]["tokens_per_second"] for one in windows]
        found |= {
            f"{point}_tokens_per_second": mean.output_tokens_per_second,
            f"{point}_tokens_per_second_each": ", ".join(f"{value:.0f}" for value in each),
            f"{point}_watts": mean.power_watts,
            f"{point}_joules_per_output_token": mean.joules_per_output_token,
            f"{point}_ttft_p95_seconds": mean.ttft_p95_seconds,
            f"{point}_itl_p95_seconds": mean.itl_p95_seconds,
            f"{point}_to_best_single": (
                mean.output_tokens_per_second / best_single if best_single else None
            ),
        }
    return found | {"chosen": summary.choice.sentence}


def plot(summary: Summary) -> str:
    """As SVG. Power that nobody measured leaves replicas as the other axis."""
    with_power = all(v.point.power_watts is not None for v in summary.choice.verdicts)
    picture = Picture(
        marks=tuple(
            Mark(
                x=verdict.point.output_tokens_per_second,
                y=(
                    verdict.point.joules_per_output_token or 0.0
                    if with_power
                    else float(verdict.point.probe.replicas)
                ),
                label=_label(verdict.point.probe),
                on_frontier=verdict.on_frontier,
                chosen=verdict.chosen,
            )
            for verdict in summary.choice.verdicts
        ),
        x_title="output tokens/s" + (", simulated" if summary.simulated else ""),
        y_title="J/output token" if with_power else "replicas (power unknown)",
        y_least_step=0.0 if with_power else 1.0,
    )
    return svg(picture, summary.title, f"replicas × sequences; {summary.sharing}; dummy weights")


def write(folder: Path, name: str, results: Path = report.RESULTS) -> Summary:
    """Table, JSON and SVG. Raises NothingMeasuredError."""
    records = read(folder)
    summary = summarize(records)
    if summary.simulated and "simulated" not in name:
        name = f"{name}_simulated"
    commands = " && ".join(dict.fromkeys(str(record["command"]) for record in records))
    raw = {"spoilt": list(summary.spoilt), "windows": records}
    report.write(name, figures(summary), commands, raw, results, records[0]["machine"])
    (results / f"{name}.svg").write_text(plot(summary))
    return summary


def _label(probe: Probe) -> str:
    name = f"{probe.replicas}×{probe.max_num_seqs}"
    return name if probe.committed else f"{name} of {probe.layout_replicas}"


def _mean(point: Point, records: Sequence[Record]) -> OperatingPoint:
    windows = [record["window"] for record in records]
    rates = [one["tokens_per_second"] for one in windows]
    return OperatingPoint(
        probe=point.probe,
        output_tokens_per_second=fmean(rates),
        confidence_tokens_per_second=(max(rates) - min(rates)) / 2,
        power_watts=_mean_of(windows, "watts"),
        ttft_p95_seconds=_mean_of(windows, "ttft_p95_seconds"),
        itl_p95_seconds=_mean_of(windows, "itl_p95_seconds"),
        window_seconds=sum(one["seconds"] for one in windows),
        saturated_fraction=min(one["saturated_fraction"] for one in windows),
        measured_at=records[-1]["date"],
        simulated=records[-1]["simulated"],
    )


def _mean_of(windows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [one[name] for one in windows]
    return None if any(value is None for value in values) else fmean(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="the windows of one sweep")
    parser.add_argument("--name", default="gpu_sweep")
    arguments = parser.parse_args()
    try:
        print(write(arguments.folder, arguments.name).choice.sentence)
    except NothingMeasuredError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
