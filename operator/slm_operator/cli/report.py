"""The demo's report: one HTML page that needs nothing else, and its picture. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from slm_operator.api.status import FrontierPoint
from slm_operator.cli.outcome import Outcome
from slm_operator.cli.picture import picture
from slm_operator.cli.svg import svg
from slm_operator.cli.tables import UNKNOWN, joules, point_name

STYLE = """
  :root { color-scheme: light dark; --paper: #ffffff; --ink: #1f2430; --soft: #5b6475;
          --line: #e3e6ec; --accent: #c2410c; --warn: #fff4e5; }
  @media (prefers-color-scheme: dark) {
    :root { --paper: #12151c; --ink: #e8eaf0; --soft: #a3abbb; --line: #2a303c;
            --accent: #ff9d5c; --warn: #3a2a14; } }
  body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
         max-width: 62rem; margin: 0 auto; padding: 2rem 1rem 4rem; }
  h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
  .soft { color: var(--soft); margin: 0; }
  .simulated { background: var(--warn); border-left: 4px solid var(--accent);
               padding: .6rem 1rem; margin: 1.2rem 0; }
  .knee { font-size: 1.1rem; margin: 1.2rem 0; }
  svg { width: 100%; height: auto; border: 1px solid var(--line); border-radius: 8px; }
  .scroll { overflow-x: auto; }
  table { border-collapse: collapse; width: 100%; font-size: .88rem; }
  th, td { text-align: left; padding: .4rem .6rem; border-bottom: 1px solid var(--line);
           vertical-align: top; }
  th { color: var(--soft); font-weight: 600; white-space: nowrap; }
  .number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
  .chosen td { font-weight: 600; } .chosen td:first-child { color: var(--accent); }
"""

_POINT_COLUMNS = (
    *("", "Replicas", "Started", "Batch", "Output tok/s", "W", "J/token", "TTFT p95", "ITL p95"),
    *("Window", "Saturated", "Frontier"),
)
_NUMBERS = range(1, 11)


def html(outcome: Outcome) -> str:
    """The whole page."""
    service, points = outcome.service, outcome.service.status.frontier
    title = f"slm-operator: {service.model_name} on {outcome.gpu}"
    banner = (
        '<p class="simulated"><strong>Simulated.</strong> Engine and GPU are simulated from '
        "published measurements; no model ran and no GPU was measured.</p>"
        if outcome.simulated
        else ""
    )
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            f"<h1>{escape(title)}</h1>",
            f'<p class="soft">{escape(_what_ran(outcome))}</p>',
            banner,
            f'<p class="knee">{escape(outcome.sentence)}.</p>',
            image(outcome),
            "<h2>Measured points</h2>",
            _table(_POINT_COLUMNS, [_row(p) for p in points], _NUMBERS),
            "<h2>What became of each</h2>",
            _table(("", "Point", "Why"), [_reason(p) for p in points]),
            "<h2>Decisions</h2>",
            _table(
                ("Time", "Decision", "Rule", "From", "To", "Why"),
                [
                    (False, (d.time, d.reason, d.rule or "", d.from_, d.to, d.message))
                    for d in outcome.decisions
                ],
            ),
            "<h2>Requests</h2>",
            _table(
                ("", "Sent", "Completed", "Failed", "Cancelled"), _requests(outcome), range(1, 5)
            ),
            "<h2>Machine</h2>",
            f"<p>{escape(outcome.machine)}</p>",
            "</body>\n</html>\n",
        ]
    )


def image(outcome: Outcome) -> str:
    """The frontier as SVG, readable by itself."""
    knee = outcome.knee
    figures = f"{knee.output_tokens_per_second:,} output tokens/s"
    if knee.power_watts is not None:
        figures += f" at {knee.power_watts:,} W"
    count = f"{knee.replicas_per_pack} replica{'s' if knee.replicas_per_pack > 1 else ''}"
    return svg(
        picture(outcome.service.status.frontier),
        f"{count} on one GPU: {figures}",
        f"{outcome.service.spec.model.uri} on {outcome.gpu}",
    )


def _what_ran(outcome: Outcome) -> str:
    spec = outcome.service.spec
    return (
        f"{spec.model.uri}, engine {spec.engine.kind}, finished {outcome.finished_at} after "
        f"{outcome.seconds:.0f} s"
    )


def _row(point: FrontierPoint) -> tuple[bool, Sequence[str]]:
    return point.chosen, (
        "◆" if point.chosen else "",
        str(point.replicas_per_pack),
        str(point.layout_replicas),
        str(point.max_num_seqs),
        f"{point.output_tokens_per_second:,} ± {point.confidence_tokens_per_second:,}",
        UNKNOWN if point.power_watts is None else f"{point.power_watts:,}",
        joules(point),
        point.ttft_p95 or UNKNOWN,
        point.itl_p95 or UNKNOWN,
        f"{point.window_seconds} s",
        f"{point.saturated_percent} %",
        "yes" if point.on_frontier else "no",
    )


def _reason(point: FrontierPoint) -> tuple[bool, Sequence[str]]:
    return point.chosen, ("◆" if point.chosen else "", point_name(point), point.why)


def _requests(outcome: Outcome) -> list[tuple[bool, Sequence[str]]]:
    own, load = outcome.requests, outcome.load
    return [
        (False, ("Clients", f"{own.sent:,}", f"{own.completed:,}", f"{own.failed:,}", "0")),
        (
            False,
            (
                "Calibration load",
                *(f"{n:,}" for n in (load.sent, load.completed, load.failed, load.cancelled)),
            ),
        ),
    ]


def _table(
    titles: Iterable[str],
    rows: Iterable[tuple[bool, Sequence[str]]],
    numbers: Iterable[int] = (),
) -> str:
    """Rows with whether each is the chosen one; ``numbers``: the columns set to the right."""
    right = set(numbers)

    def cells(tag: str, texts: Iterable[str]) -> str:
        return "".join(
            f"<{tag}{' class=number' if i in right else ''}>{escape(text)}</{tag}>"
            for i, text in enumerate(texts)
        )

    body = "\n".join(
        f"<tr{' class=chosen' if chosen else ''}>{cells('td', texts)}</tr>"
        for chosen, texts in rows
    )
    return (
        f'<div class="scroll"><table>\n<thead><tr>{cells("th", titles)}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )
