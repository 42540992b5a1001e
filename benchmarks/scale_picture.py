"""How the operator's costs grow with the number of services: four curves below their goals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from slm_operator.cli.svg import STYLE

IMAGE = Path(__file__).parents[1] / "docs" / "images" / "scale.svg"
WIDTH, HEIGHT = 760, 560
LEFT, TOP, PANEL_WIDTH, PANEL_HEIGHT = 60, 100, 270, 150
COLUMN, ROW = 370, 240
HEADROOM = 1.15
"""Above the highest value, for its label."""


@dataclass(frozen=True)
class Curve:
    figure: str
    title: str
    goal: float
    """The most that is allowed; the top of the panel."""
    digits: int


CURVES = (
    Curve("cpu_cores", "CPU at rest, cores", 1.0, 2),
    Curve("rss_mb", "memory at rest, MB", 300, 0),
    Curve("lag_p95_seconds", "spec change to new plan, p95, s", 1.0, 2),
    Curve("start_seconds", "start with all of them there, s", 30, 1),
)


def write(steps: Sequence[Mapping[str, float]]) -> None:
    IMAGE.write_text(picture(steps))


def picture(steps: Sequence[Mapping[str, float]]) -> str:
    """``steps``: figures of each number of services, ascending."""
    most = steps[-1]
    title = f"The operator with up to {most['services']:,} services and {most['packs']:,} packs"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">',
        f"<style>{STYLE}  svg .goal {{ stroke: var(--chosen); stroke-dasharray: 5 4; }}\n</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="var(--paper)"/>',
        _text(LEFT, 28, title, "title"),
        _text(LEFT, 50, "over the number of services; dashed: the goal; packs are stand-ins"),
    ]
    for number, curve in enumerate(CURVES):
        row, column = divmod(number, 2)
        parts += _panel(LEFT + column * COLUMN, TOP + row * ROW, curve, steps)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(
    left: float, top: float, curve: Curve, steps: Sequence[Mapping[str, float]]
) -> Iterator[str]:
    highest = max(curve.goal, *(HEADROOM * step[curve.figure] for step in steps))
    most = steps[-1]["services"]
    bottom = top + PANEL_HEIGHT

    def x(services: float) -> float:
        return left + PANEL_WIDTH * services / most

    def y(value: float) -> float:
        return bottom - PANEL_HEIGHT * value / highest

    yield _text(left, top - 10, curve.title, "label")
    yield _line("grid", left, bottom, left + PANEL_WIDTH, bottom)
    yield _text(left - 6, bottom + 4, "0", anchor="end")
    yield _line("goal", left, y(curve.goal), left + PANEL_WIDTH, y(curve.goal))
    yield _text(left - 6, y(curve.goal) + 4, f"{curve.goal:g}", anchor="end")
    points = [(x(step["services"]), y(step[curve.figure])) for step in steps]
    yield f'<polyline class="line" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>'
    for step, (across, up) in zip(steps, points, strict=True):
        yield f'<circle class="frontier" cx="{across:.1f}" cy="{up:.1f}" r="4"/>'
        value = f"{step[curve.figure]:,.{curve.digits}f}"
        yield _text(across, up - 9, value, "label", "middle")
        yield _text(across, bottom + 18, f"{step['services']:,}", anchor="middle")


def _line(style: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    name = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{name}>{escape(text)}</text>'
