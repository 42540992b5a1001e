"""What a picture of the measured points shows, whoever draws it. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from slm_operator.api.status import FrontierPoint

Kind = Literal["probed", "beaten", "frontier", "chosen"]
KINDS: dict[Kind, str] = {
    "chosen": "chosen",
    "frontier": "on the frontier",
    "beaten": "beaten",
    "probed": "probed in rotation",
}
"""In the words of the legend, the most important first."""

MARGIN = 0.08
"""Free room around the marks, as a share of the range that they span."""


@dataclass(frozen=True)
class Mark:
    """One measured configuration. ``x``: output tokens/s; ``y``: in the unit of the title."""

    x: float
    y: float
    label: str
    on_frontier: bool
    chosen: bool
    probed: bool = False
    """Measured by rotation alone, with its share of a larger layout's memory: it took no part in
    the choice."""

    @property
    def kind(self) -> Kind:
        if self.chosen:
            return "chosen"
        if self.probed:
            return "probed"
        return "frontier" if self.on_frontier else "beaten"


@dataclass(frozen=True)
class Picture:
    marks: tuple[Mark, ...]
    x_title: str
    y_title: str
    y_least_step: float = 0.0
    """Between two ticks: whole replicas have no halves."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Those that are on the picture, the most important first."""
        present = {m.kind for m in self.marks}
        return tuple(kind for kind in KINDS if kind in present)

    @property
    def by_importance(self) -> tuple[Mark, ...]:
        """The marks, those first that another must not hide."""
        return tuple(sorted(self.marks, key=lambda m: list(KINDS).index(m.kind)))

    @property
    def frontier(self) -> tuple[Mark, ...]:
        """The marks that no other beats, by throughput."""
        return tuple(sorted((m for m in self.marks if m.on_frontier), key=lambda m: m.x))


@dataclass(frozen=True)
class Axis:
    """A range and the round values inside it that are written beside it."""

    low: float
    high: float
    ticks: tuple[float, ...]
    digits: int
    """Decimals that tell the ticks apart."""

    def share(self, value: float) -> float:
        """Where ``value`` lies: 0 at the low end, 1 at the high one."""
        return (value - self.low) / (self.high - self.low)

    def text(self, value: float) -> str:
        return f"{value:,.{self.digits}f}"


def picture(points: Iterable[FrontierPoint]) -> Picture:
    """Throughput against energy per token, or against replicas where power is unknown. Of several
    measurements of one configuration the committed layout's counts, then the newest."""
    newest: dict[tuple[int, int], FrontierPoint] = {}
    for point in sorted(points, key=_precedence):
        newest[point.replicas_per_pack, point.max_num_seqs] = point
    shown = list(newest.values())
    measured_power = all(p.microjoules_per_output_token is not None for p in shown)
    return Picture(
        marks=tuple(
            Mark(
                x=float(p.output_tokens_per_second),
                y=(p.microjoules_per_output_token or 0) / 1e6
                if measured_power
                else float(p.replicas_per_pack),
                label=f"{p.replicas_per_pack}×{p.max_num_seqs}",
                on_frontier=p.on_frontier,
                chosen=p.chosen,
                probed=p.layout_replicas != p.replicas_per_pack,
            )
            for p in shown
        ),
        x_title="output tokens/s" + (", simulated" if any(p.simulated for p in shown) else ""),
        y_title="J/output token" if measured_power else "replicas (power unknown)",
        y_least_step=0.0 if measured_power else 1.0,
    )


def axis(values: Sequence[float], about_ticks: int, least_step: float = 0.0) -> Axis:
    """An axis around ``values`` with about so many ticks, four or more. Raises ValueError without
    values."""
    if not values:
        raise ValueError("nothing to draw: give at least one value")
    span = max(values) - min(values) or abs(max(values)) * 0.2 or 1.0
    low, high = min(values) - MARGIN * span, max(values) + MARGIN * span
    step = max(_round_step((high - low) / about_ticks), least_step)
    first = math.ceil(low / step)
    ticks = tuple(n * step for n in range(first, math.floor(high / step) + 1))
    return Axis(low, high, ticks, max(0, -math.floor(math.log10(step))))


def _round_step(rough: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is at least ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))


def _precedence(point: FrontierPoint) -> tuple[bool, str]:
    return point.layout_replicas == point.replicas_per_pack, point.measured_at
