"""The measured points as SVG without scripts or outside resources; follows light and dark. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from slm_operator.cli.picture import KINDS, Axis, Kind, Mark, Picture, axis

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 84, 40, 88, 64

SYMBOL_RADIUS = 9
LETTER_WIDTH = 7.5
"""Of a bold label, on the wide side: who reads it has a font of their own."""

STYLE = """
  svg { color-scheme: light dark; --paper: #ffffff; --ink: #1f2430; --soft: #5b6475;
        --grid: #e3e6ec; --beaten: #8b94a7; --front: #1d6fd1; --chosen: #c2410c; }
  @media (prefers-color-scheme: dark) {
    svg { --paper: #12151c; --ink: #e8eaf0; --soft: #a3abbb; --grid: #2a303c;
          --beaten: #7d8698; --front: #6cb0ff; --chosen: #ff9d5c; } }
  svg text { font: 13px system-ui, sans-serif; fill: var(--soft); }
  svg .title { font-size: 17px; font-weight: 600; fill: var(--ink); }
  svg .label { fill: var(--ink); }
  svg .grid { stroke: var(--grid); }
  svg .line { stroke: var(--front); stroke-width: 2; fill: none; }
  svg .beaten { fill: var(--paper); stroke: var(--beaten); stroke-width: 2; }
  svg .probed { fill: none; stroke: var(--beaten); stroke-width: 1.5; stroke-dasharray: 2 2; }
  svg .frontier { fill: var(--front); }
  svg .chosen { fill: var(--chosen); }
  svg .label.chosen { font-weight: 700; }
"""


def svg(shown: Picture, title: str, subtitle: str) -> str:
    """Draws ``shown`` under its titles. Raises ValueError without a mark."""
    x = axis([m.x for m in shown.marks], about_ticks=6)
    y = axis([m.y for m in shown.marks], about_ticks=5, least_step=shown.y_least_step)
    name = escape(f"{title}: {', '.join(m.label for m in shown.marks)}")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{name}">',
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="var(--paper)"/>',
        _text(LEFT, 28, title, "title"),
        _text(LEFT, 50, subtitle),
        _text(LEFT, TOP - 12, shown.y_title),
        _text(WIDTH - RIGHT, HEIGHT - 14, shown.x_title, anchor="end"),
        *_grid(x, y),
        *_legend(shown),
    ]
    if len(shown.frontier) > 1:
        path = " ".join(f"{_x(x, m.x):.1f},{_y(y, m.y):.1f}" for m in shown.frontier)
        parts.append(f'<polyline class="line" points="{path}"/>')
    placed = [(mark, _x(x, mark.x), _y(y, mark.y)) for mark in shown.by_importance]
    labels = _labels(placed)
    for (mark, at_x, at_y), label in reversed(list(zip(placed, labels, strict=True))):
        style = "label chosen" if mark.chosen else "label"
        parts.append(_symbol(mark.kind, at_x, at_y))
        parts.append(_text(label.x, label.y, mark.label, style, label.anchor))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _grid(x: Axis, y: Axis) -> list[str]:
    lines = []
    for tick in x.ticks:
        at = _x(x, tick)
        lines.append(_line(at, TOP, at, HEIGHT - BOTTOM))
        lines.append(_text(at, HEIGHT - BOTTOM + 20, x.text(tick), anchor="middle"))
    for tick in y.ticks:
        at = _y(y, tick)
        lines.append(_line(LEFT, at, WIDTH - RIGHT, at))
        lines.append(_text(LEFT - 10, at + 4, y.text(tick), anchor="end"))
    return lines


def _legend(shown: Picture) -> list[str]:
    x, y, parts = LEFT + 6.0, HEIGHT - 18, []
    for kind in shown.kinds:
        parts += [_symbol(kind, x, y), _text(x + 14, y + 4, KINDS[kind])]
        x += 38 + 6.5 * len(KINDS[kind])
    return parts


@dataclass(frozen=True)
class _Box:
    left: float
    right: float
    top: float
    bottom: float

    def within(self, other: _Box) -> bool:
        return (
            other.left <= self.left
            and self.right <= other.right
            and other.top <= self.top
            and self.bottom <= other.bottom
        )

    def meets(self, other: _Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


PLACE = _Box(LEFT, WIDTH - RIGHT, TOP - SYMBOL_RADIUS, HEIGHT - BOTTOM)
"""Where labels may be: not over what is written along the axes."""


@dataclass(frozen=True)
class _Label:
    x: float
    y: float
    anchor: str
    box: _Box


def _labels(placed: Sequence[tuple[Mark, float, float]]) -> list[_Label]:
    """A place beside each mark, the first of them first: where it hides no symbol and no earlier
    label, if there is such a place."""
    taken = [
        _Box(x - SYMBOL_RADIUS, x + SYMBOL_RADIUS, y - SYMBOL_RADIUS, y + SYMBOL_RADIUS)
        for _, x, y in placed
    ]
    labels = []
    for mark, x, y in placed:
        places = list(_places(x, y, LETTER_WIDTH * len(mark.label)))
        inside = [p for p in places if p.box.within(PLACE)] or places
        free = (p for p in inside if not any(p.box.meets(other) for other in taken))
        label = next(free, inside[0])
        taken.append(label.box)
        labels.append(label)
    return labels


def _places(x: float, y: float, width: float) -> Iterator[_Label]:
    """Right, left, below and above of a symbol."""
    for beside, down, anchor, before in (
        (13, 4, "start", 0.0),
        (-13, 4, "end", 1.0),
        (0, 22, "middle", 0.5),
        (0, -14, "middle", 0.5),
    ):
        left = x + beside - before * width
        box = _Box(left, left + width, y + down - 10, y + down + 3)
        yield _Label(x + beside, y + down, anchor, box)


def _symbol(kind: Kind, x: float, y: float) -> str:
    if kind == "chosen":
        points = f"{x:.1f},{y - 9:.1f} {x + 9:.1f},{y:.1f} {x:.1f},{y + 9:.1f} {x - 9:.1f},{y:.1f}"
        return f'<polygon class="chosen" points="{points}"/>'
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="6"/>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="grid" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    name = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{name}>{escape(text)}</text>'


def _x(x: Axis, value: float) -> float:
    return LEFT + x.share(value) * (WIDTH - LEFT - RIGHT)


def _y(y: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - y.share(value) * (HEIGHT - TOP - BOTTOM)
