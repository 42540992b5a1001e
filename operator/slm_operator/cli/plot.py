"""The measured points as text: Unicode marks on a Braille frontier, at most 80 columns. Pure."""

from __future__ import annotations

from itertools import pairwise

from slm_operator.cli.picture import KINDS, Axis, Kind, Picture, axis

WIDTH = 80
HEIGHT = 14
SYMBOLS: dict[Kind, str] = {"chosen": "◆", "frontier": "●", "beaten": "○", "probed": "△"}

_BRAILLE = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a Braille character by row and column of its dots (Unicode's Braille Patterns block)."""


def plot(shown: Picture, width: int = WIDTH, height: int = HEIGHT) -> str:
    """Draws ``shown`` in ``width`` columns and ``height`` rows, and axes and legend below and
    beside them. Empty without a mark."""
    if not shown.marks:
        return ""
    x = axis([m.x for m in shown.marks], about_ticks=5)
    y = axis([m.y for m in shown.marks], about_ticks=5, least_step=shown.y_least_step)
    names = _tick_rows(y, height)
    margin = max(len(name) for name in names.values()) + 3
    canvas = _Canvas(width - margin, height)
    frontier = [(x.share(m.x), y.share(m.y)) for m in shown.frontier]
    for start, end in pairwise(frontier):
        canvas.line(start, end)
    for mark in reversed(shown.by_importance):
        canvas.put(SYMBOLS[mark.kind], x.share(mark.x), y.share(mark.y))
    for mark in shown.by_importance:
        canvas.label(mark.label, x.share(mark.x), y.share(mark.y))
    lines = [shown.y_title]
    for row, cells in enumerate(canvas.rows()):
        name = names.get(row, "")
        lines.append(f" {name:>{margin - 3}} {'┤' if name else '│'}{cells}".rstrip())
    lines += _below(x, width, margin)
    lines.append(f"{shown.x_title:>{width}}")
    legend = "   ".join(f"{SYMBOLS[kind]} {KINDS[kind]}" for kind in shown.kinds)
    lines.append(f"{legend:^{width}}".rstrip())
    return "\n".join(lines)


class _Canvas:
    """Cells of text over a grid of Braille dots. Places are shares of the canvas, from its lower
    left corner."""

    def __init__(self, width: int, height: int) -> None:
        self._width, self._height = width, height
        self._text: dict[tuple[int, int], str] = {}
        self._dots: dict[tuple[int, int], int] = {}

    def put(self, symbol: str, x: float, y: float) -> None:
        self._text[self._cell(x, y)] = symbol

    def label(self, text: str, x: float, y: float) -> None:
        """Writes beside a place, wherever there is room; nowhere when there is none."""
        row, column = self._cell(x, y)
        centred = column - len(text) // 2
        for at_row, at_column in (
            (row, column + 2),
            (row, column - 1 - len(text)),
            (row - 1, centred),
            (row + 1, centred),
        ):
            if self._free(at_row, at_column - 1, len(text) + 2):
                self._text.update(((at_row, at_column + i), c) for i, c in enumerate(text))
                return

    def line(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        wide, high = self._width * 2 - 1, self._height * 4 - 1
        steps = round(max(abs(end[0] - start[0]) * wide, abs(end[1] - start[1]) * high, 1))
        for step in range(steps + 1):
            along = step / steps
            column = round((start[0] + (end[0] - start[0]) * along) * wide)
            row = round((1 - start[1] - (end[1] - start[1]) * along) * high)
            cell = row // 4, column // 2
            self._dots[cell] = self._dots.get(cell, 0) | _DOTS[row % 4][column % 2]

    def rows(self) -> list[str]:
        return [
            "".join(self._at(row, column) for column in range(self._width))
            for row in range(self._height)
        ]

    def _at(self, row: int, column: int) -> str:
        cell = row, column
        if cell in self._text:
            return self._text[cell]
        return chr(_BRAILLE | self._dots[cell]) if cell in self._dots else " "

    def _cell(self, x: float, y: float) -> tuple[int, int]:
        return round((1 - y) * (self._height - 1)), round(x * (self._width - 1))

    def _free(self, row: int, column: int, length: int) -> bool:
        inside = 0 <= row < self._height and column >= 0 and column + length <= self._width
        # The frontier may run under the first and last column, which only keep labels apart.
        cells = [(row, column + i) for i in range(length)]
        return (
            inside
            and not any(c in self._text for c in cells[1:])
            and not any(c in self._dots for c in cells[1:-1])
        )


def _tick_rows(y: Axis, height: int) -> dict[int, str]:
    return {round((1 - y.share(tick)) * (height - 1)): y.text(tick) for tick in y.ticks}


def _below(x: Axis, width: int, margin: int) -> list[str]:
    """The axis line with its ticks, and their values."""
    line = ["─"] * (width - margin)
    values = [" "] * width
    written = 0
    for tick in x.ticks:
        column = round(x.share(tick) * (width - margin - 1))
        line[column] = "┬"
        text = x.text(tick)
        start = min(margin + column - len(text) // 2, width - len(text))
        if start > written:
            values[start : start + len(text)] = text
            written = start + len(text)
    return [" " * (margin - 1) + "└" + "".join(line), "".join(values).rstrip()]
