"""What ``benchmarks.policies`` writes into ``docs/simulation.md`` and beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.report import Figure
from slm_operator.cli.report import STYLE as PAGE_STYLE
from slm_operator.cli.simulate import Answer
from slm_operator.cli.simulate_page import CHART_STYLE, HEIGHT, WIDTH, chart

DOCUMENT = Path(__file__).parents[1] / "docs" / "simulation.md"
IMAGES = DOCUMENT.parent / "images"
BEGIN, END = "<!-- tables: written by policies -->\n", "<!-- end -->\n"
SHOWN_OVER_TIME = ("conversation-20", "bursts")
KEPT = 0.99
"""SLO attainment from which GPU-hours and joules are compared."""
OURS = "pareto"
HINDSIGHT = ("static:", "hpa-tuned", "oracle")
"""What nobody can run: it was chosen after the trace was known."""


def write(
    titles: Mapping[str, str],
    documents: Mapping[str, Mapping[str, Any]],
    pictures: Mapping[str, str],
) -> None:
    tables = "\n".join(_table(titles[name], found) for name, found in documents.items())
    text = DOCUMENT.read_text()
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{DOCUMENT} lost its marks {BEGIN.strip()} and {END.strip()}")
    DOCUMENT.write_text(f"{head}{begin}{tables}{end}{tail}")
    for name in SHOWN_OVER_TIME:
        (IMAGES / f"policies-{name}.svg").write_text(pictures[name])


def packs_picture(answer: Answer) -> str:
    """GPUs over time of the product's policy, above the demand, beside the oracle's."""
    ours = next(run for run in answer.runs if run.policy == OURS)
    drawn = chart(ours.outcome.timeline, answer.oracle.outcome.timeline, OURS)
    _, _, inner = drawn.partition(">")
    style = escape(_colors() + CHART_STYLE, quote=False)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="GPUs over time: pareto (line) and the oracle (dashed), simulated">'
        f'<style>{style}</style><rect width="{WIDTH}" height="{HEIGHT}" fill="var(--paper)"/>'
        f"{inner}\n"
    )


def summary(name: str, document: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    """The figures that matter of one case: against the oracle, and against the best peer."""
    runs = {run["policy"]: run for run in document["policies"]}
    ours = runs[OURS]
    yield f"{name}: pareto in SLO percent", round(100 * ours["sloAttainment"], 2)
    for what in ("gpuHours", "joules"):
        regret = round(100 * ours["regretToOracle"][what], 1)
        yield f"{name}: pareto over the oracle, {what} percent", regret
    yield f"{name}: pareto pack changes an hour", round(ours["packChangesPerHour"], 1)
    for kind, packed in (("as shipped", False), ("packed", True)):
        peers = [
            run
            for policy, run in runs.items()
            if policy != OURS
            and not policy.startswith(HINDSIGHT)
            and ("+" in policy) is packed
            and run["sloAttainment"] >= KEPT
        ]
        best = min(peers, key=lambda run: (run["gpuHours"], run["joules"]), default=None)
        yield f"{name}: best peer {kind} in SLO", best["policy"] if best else "none"
        if best is not None:
            yield from _saved(f"{name}: pareto below the best peer {kind}", ours, best)
    for tuned in ("hpa-tuned", "hpa-tuned+static:2"):
        if tuned in runs:
            yield f"{name}: {tuned} in SLO percent", round(100 * runs[tuned]["sloAttainment"], 2)
            yield from _saved(f"{name}: pareto below {tuned}", ours, runs[tuned])


def _saved(
    what: str, ours: Mapping[str, Any], other: Mapping[str, Any]
) -> Iterator[tuple[str, Figure]]:
    for figure in ("gpuHours", "joules"):
        yield f"{what}, {figure} percent", round(100 * (1 - ours[figure] / other[figure]), 1)


def _table(title: str, document: Mapping[str, Any]) -> str:
    lines = [
        f"**{title}**: {document['requests']:,} requests, {document['meanPromptTokens']:,.0f} "
        f"prompt and {document['meanOutputTokens']:,.0f} output tokens on average.",
        "",
        "| policy | on a GPU | in SLO | GPU-h | over oracle | MJ | over oracle | TTFT p95 | lost "
        "| changes/h |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    names = {run["policy"] for run in document["policies"]}
    oracle = [] if "oracle" in names else [document["oracle"]]
    for run in (*document["policies"], *oracle):
        layout, regret = run["layout"], run["regretToOracle"]
        mark = "**" if run["policy"] == OURS else ""
        lines.append(
            f"| {mark}{run['policy']}{mark} | {layout['replicas']} × {layout['maxNumSeqs']} "
            f"| {run['sloAttainment']:.1%} | {run['gpuHours']:.2f} | {regret['gpuHours']:+.1%} "
            f"| {run['joules'] / 1e6:.3f} | {regret['joules']:+.1%} "
            f"| {run['ttftSeconds']['p95']:.2f} s | {run['lost']:,} "
            f"| {run['packChangesPerHour']:.1f} |"
        )
    return "\n".join([*lines, ""])


def _colors() -> str:
    """The colours of the pages, for a picture that stands alone."""
    start = PAGE_STYLE.index(":root")
    return PAGE_STYLE[start : PAGE_STYLE.index("body {")].replace(":root", "svg")
