"""The page of ``slmctl simulate --output html``: figures and packs over time. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise

from slm_operator.cli.report import STYLE
from slm_operator.cli.simulate import NOTE, Answer, percent_over, warnings
from slm_operator.simulate.service import Moment
from slm_operator.simulate.study import Run

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 170, 52, 12, 14, 30
_COLUMNS = (
    *("Policy", "On a GPU", "In SLO", "GPU-hours", "over oracle", "MJ", "over oracle", "J/token"),
    *("TTFT p95", "ITL p95", "Lost", "Changes/h"),
)
CHART_STYLE = """
  .demand { fill: var(--line); } .packs { fill: none; stroke: var(--accent); stroke-width: 2; }
  .oracle { fill: none; stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 4 3; }
  .axis { stroke: var(--line); } svg text { font: 12px system-ui, sans-serif; fill: var(--soft); }
  .below td { color: var(--soft); } td:first-child { white-space: nowrap; }
"""


def page(answer: Answer) -> str:
    """One HTML document that needs nothing else."""
    question = answer.question
    rows = "".join(_row(run, answer) for run in answer.shown)
    first, *others = _COLUMNS
    numbers = "".join(f'<th class="number">{escape(name)}</th>' for name in others)
    heads = f"<th>{escape(first)}</th>{numbers}"
    charts = "".join(_section(run, answer.oracle) for run in answer.shown)
    notes = "".join(f"<p class='simulated'>{escape(w)}</p>" for w in warnings(question))
    title = f"{question.source.model}, {question.trace_path} × {question.rate_scale:g}"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{STYLE}{CHART_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p class="soft">{len(question.trace.requests):,} requests in {question.trace.seconds / 3600:.2f} h;
{escape(question.source.basis)}; TTFT up to {question.wanted.ttft_seconds:g} s and mean ITL up to
{question.wanted.itl_seconds * 1000:g} ms count as in the SLO.</p>
<p class="simulated">{escape(NOTE)}</p>{notes}
<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>
<p class="soft">The oracle knows the curve and all that will come. Grey rows missed the SLO more
often than {1 - question.wanted.attained:.0%}.</p>
{charts}</body></html>"""


def _row(run: Run, answer: Answer) -> str:
    one, oracle = run.figures, answer.oracle.figures
    per_token = one.joules_per_output_token
    cells = (
        f"{run.layout.replicas} × {run.layout.max_num_seqs}",
        f"{one.slo_attainment:.2%}",
        f"{one.gpu_hours:.2f}",
        percent_over(one.gpu_hours, oracle.gpu_hours),
        f"{one.joules / 1e6:.3f}",
        percent_over(one.joules, oracle.joules),
        "-" if per_token is None else f"{per_token:.4f}",
        "-" if one.ttft_seconds is None else f"{one.ttft_seconds[1]:.2f} s",
        "-" if one.itl_seconds is None else f"{one.itl_seconds[1] * 1000:.0f} ms",
        f"{one.lost:,}",
        f"{one.pack_changes_per_hour:.1f}",
    )
    below = one.slo_attainment < answer.question.wanted.attained
    numbers = "".join(f'<td class="number">{escape(cell)}</td>' for cell in cells)
    style = "below" if below else "kept"
    return f'<tr class="{style}"><td>{escape(run.policy)}</td>{numbers}</tr>'


def _section(run: Run, oracle: Run) -> str:
    return (
        f"<h2>{escape(run.policy)}: GPUs over time</h2>"
        f"{chart(run.outcome.timeline, oracle.outcome.timeline, run.policy)}"
        "<p class='soft'>Line: GPUs held. Dashed: those of the oracle. Grey: requests that arrive, "
        f"to their own scale. On each GPU: {escape(run.why)}.</p>"
    )


def chart(moments: Sequence[Moment], yardstick: Sequence[Moment], name: str) -> str:
    seconds = max(1.0, moments[-1].at_seconds, yardstick[-1].at_seconds)
    most = max(1, *(m.packs for m in (*moments, *yardstick)))
    busiest = max([1, *(m.arrived for m in moments[1:])])

    def x(at_seconds: float) -> float:
        return LEFT + at_seconds / seconds * (WIDTH - LEFT - RIGHT)

    def y(share: float) -> float:
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def steps(line: Sequence[Moment]) -> str:
        points, before = [], line[0].packs
        for moment in line:
            points.append(f"{x(moment.at_seconds):.1f},{y(before / most):.1f}")
            points.append(f"{x(moment.at_seconds):.1f},{y(moment.packs / most):.1f}")
            before = moment.packs
        return " ".join(points)

    area = " ".join(
        f"{x(at_seconds):.1f},{y(0.95 * new.arrived / busiest):.1f}"
        for old, new in pairwise(moments)
        for at_seconds in (old.at_seconds, new.at_seconds)
    )
    floor = f"{x(seconds):.1f},{y(0):.1f} {x(0):.1f},{y(0):.1f}"
    packs = range(0, most + 1, max(1, most // 4))
    ticks = "".join(
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(n / most):.1f}" '
        f'y2="{y(n / most):.1f}"/>'
        f'<text x="{LEFT - 8}" y="{y(n / most) + 4:.1f}" text-anchor="end">{n}</text>'
        for n in packs
    )
    minutes = range(0, int(seconds / 60) + 1, max(1, round(seconds / 360)))
    times = "".join(
        f'<text x="{at:.1f}" y="{HEIGHT - 10}" '
        f'text-anchor="{"end" if at > WIDTH - LEFT else "middle"}">{m} min</text>'
        for m in minutes
        for at in (x(60 * m),)
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(name)}: GPUs over time, at most {most}">'
        f'<polygon class="demand" points="{area} {floor}"/>{ticks}{times}'
        f'<polyline class="oracle" points="{steps(yardstick)}"/>'
        f'<polyline class="packs" points="{steps(moments)}"/></svg>'
    )
