"""The frontier among measured points, and the knee that the Balanced objective chooses.

Balanced: the most throughput whose energy per token stays within ``max_energy_increase`` of the
least measured, where each added replica is worth at least ``min_throughput_gain``. Differences
below the noise go to fewer replicas. Without power figures throughput alone decides, and the
choice says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from slm_operator.pareto.points import OperatingPoint, Probe

NOISE_FLOOR = 0.01
"""Two windows of one configuration differ by about a percent even when both are precise (the
repeated runs of the published H100 measurements do); no smaller difference counts."""


@dataclass(frozen=True)
class Balanced:
    """The user's two limits, as fractions of one."""

    min_throughput_gain: float = 0.03
    max_energy_increase: float = 0.05


@dataclass(frozen=True)
class Verdict:
    """What became of one point, and why, with both numbers."""

    point: OperatingPoint
    on_frontier: bool
    chosen: bool
    why: str


@dataclass(frozen=True)
class Choice:
    chosen: OperatingPoint
    sentence: str
    verdicts: tuple[Verdict, ...]
    """One for each candidate, by replicas and batch."""
    throughput_only: bool


def candidates(points: Iterable[OperatingPoint]) -> list[OperatingPoint]:
    """One point for each (replicas, max_num_seqs): a committed layout's before a rotation's, then
    the newest."""
    best: dict[tuple[int, int], OperatingPoint] = {}
    for point in points:
        key = (point.probe.replicas, point.probe.max_num_seqs)
        held = best.get(key)
        if held is None or _precedence(point) >= _precedence(held):
            best[key] = point
    return [best[key] for key in sorted(best)]


def choose(points: Iterable[OperatingPoint], objective: Balanced, note: str = "") -> Choice:
    """The knee among ``points``; ``note`` joins its sentence. Raises ValueError without a point."""
    among = candidates(points)
    if not among:
        raise ValueError("no measured point to choose from: measure at least one window first")
    throughput_only = any(p.joules_per_output_token is None for p in among)
    thriftiest = min(among, key=lambda p: p.joules_per_output_token or math.inf)

    rejected: dict[Probe, str] = {}
    chosen: OperatingPoint | None = None
    for point in among:
        if not throughput_only and (excess := _energy_excess(thriftiest, point, objective)):
            rejected[point.probe] = excess
        elif chosen is None:
            chosen = point
        elif worth_adding(chosen, point, objective):
            rejected[chosen.probe] = _less_than(chosen, point)
            chosen = point
        else:
            rejected[point.probe] = _not_worth(chosen, point, objective)
    if chosen is None:
        raise ValueError("no point lies within the energy limit of the least: impossible")
    sentence = _sentence(chosen, among, throughput_only, note)
    verdicts = tuple(
        Verdict(
            point=point,
            on_frontier=not any(
                dominates(q, point, throughput_only) for q in among if q is not point
            ),
            chosen=point is chosen,
            why=sentence if point is chosen else rejected[point.probe],
        )
        for point in among
    )
    return Choice(chosen, sentence, verdicts, throughput_only)


def costs_too_much(
    point: OperatingPoint, among: Sequence[OperatingPoint], objective: Balanced
) -> bool:
    """Whether ``point`` breaks the energy limit that the thriftiest of ``among`` sets; False while
    power is unknown."""
    energies = {p.probe: p.joules_per_output_token for p in among}
    if any(energy is None for energy in energies.values()):
        return False
    least = min(among, key=lambda p: p.joules_per_output_token or math.inf)
    return _energy_excess(least, point, objective) is not None


def walk_verdicts(walked: Sequence[OperatingPoint], objective: Balanced) -> dict[Probe, str]:
    """What each step by rotation said, for points that took no part in the choice."""
    told = {
        p.probe: "the walk's first step, with the memory of a larger layout" for p in walked[:1]
    }
    for fewer, more in pairwise(walked):
        told[more.probe] = (
            f"a step of the walk by rotation: {compared(fewer, more)} the step before"
            if worth_adding(fewer, more, objective)
            else f"the walk stopped here: {_not_worth(fewer, more, objective)}"
        )
    return told


def worth_adding(fewer: OperatingPoint, more: OperatingPoint, objective: Balanced) -> bool:
    """Whether ``more`` earns what it adds to ``fewer``: a replica must gain the wanted share, each
    one anew; a larger batch of as many replicas costs nothing and need only exceed the noise."""
    return significantly_more(fewer, more) and (
        more.output_tokens_per_second
        >= fewer.output_tokens_per_second * _required_ratio(fewer, more, objective)
    )


def significantly_more(a: OperatingPoint, b: OperatingPoint) -> bool:
    """Whether ``b`` has more throughput than ``a``, by more than both confidences together."""
    return b.output_tokens_per_second - a.output_tokens_per_second > _noise(a, b)


def dominates(a: OperatingPoint, b: OperatingPoint, throughput_only: bool = False) -> bool:
    """Whether ``a`` beats ``b``: as good in throughput and energy per token within the noise, and
    better in one of them beyond it. Without energy the fewer replicas stand for the lower cost."""
    if significantly_more(a, b):
        return False
    faster = significantly_more(b, a)
    energy_a, energy_b = a.joules_per_output_token, b.joules_per_output_token
    if throughput_only or energy_a is None or energy_b is None:
        cost_a, cost_b, slack = float(a.probe.replicas), float(b.probe.replicas), 0.0
    else:
        cost_a, cost_b = energy_a, energy_b
        slack = _noise(a, b) / max(b.output_tokens_per_second, 1e-9) * energy_b
    if cost_a > cost_b + slack:
        return False
    return faster or cost_a < cost_b - slack


def _precedence(point: OperatingPoint) -> tuple[bool, str]:
    return point.probe.committed, point.measured_at


def _noise(a: OperatingPoint, b: OperatingPoint) -> float:
    floor = NOISE_FLOOR * max(a.output_tokens_per_second, b.output_tokens_per_second)
    return max(floor, math.hypot(a.confidence_tokens_per_second, b.confidence_tokens_per_second))


def _energy_excess(least: OperatingPoint, point: OperatingPoint, objective: Balanced) -> str | None:
    """Why ``point`` costs too much energy per token; None when the limit holds within the noise."""
    energy, lowest = point.joules_per_output_token or 0.0, least.joules_per_output_token or 0.0
    excess = energy / max(lowest, 1e-9) - 1
    noise = math.hypot(
        *(
            p.confidence_tokens_per_second / max(p.output_tokens_per_second, 1e-9)
            for p in (least, point)
        )
    )
    if excess - noise <= objective.max_energy_increase:
        return None
    return (
        f"{energy:.4f} J/token is {excess:.1%} above the least, {lowest:.4f}; "
        f"maxEnergyIncreasePercent allows {objective.max_energy_increase:.0%}"
    )


def _required_ratio(fewer: OperatingPoint, more: OperatingPoint, objective: Balanced) -> float:
    added = max(0, more.probe.replicas - fewer.probe.replicas)
    return float((1 + objective.min_throughput_gain) ** added)


def _gain(a: OperatingPoint, b: OperatingPoint) -> float:
    return b.output_tokens_per_second / max(a.output_tokens_per_second, 1e-9) - 1


def compared(a: OperatingPoint, b: OperatingPoint) -> str:
    """How much more or less than ``a`` ``b`` serves, in words."""
    gain = _gain(a, b)
    return f"{abs(gain):.1%} {'more' if gain >= 0 else 'less'} than"


def _less_than(loser: OperatingPoint, winner: OperatingPoint) -> str:
    return (
        f"{winner.probe} serves {winner.output_tokens_per_second:,.0f} tok/s, "
        f"{compared(loser, winner)} its {loser.output_tokens_per_second:,.0f}"
    )


def _not_worth(chosen: OperatingPoint, point: OperatingPoint, objective: Balanced) -> str:
    gain = _gain(chosen, point)
    text = (
        f"{point.output_tokens_per_second:,.0f} tok/s is {compared(chosen, point)} the "
        f"{chosen.output_tokens_per_second:,.0f} of {chosen.probe}"
    )
    required = _required_ratio(chosen, point, objective) - 1
    if required > 0 and gain < required:
        return (
            f"{text}; {required:.1%} more is needed, by minThroughputGainPercent "
            f"{objective.min_throughput_gain:.0%} a replica"
        )
    noise = _noise(chosen, point)
    return f"{text}, within the noise of {noise:,.0f} tok/s"


def _sentence(
    chosen: OperatingPoint, among: Sequence[OperatingPoint], throughput_only: bool, note: str
) -> str:
    figures = f"{chosen.output_tokens_per_second:,.0f} output tok/s"
    energy = chosen.joules_per_output_token
    if energy is not None and chosen.power_watts is not None:
        figures += f" at {chosen.power_watts:,.0f} W ({energy:.4f} J/token)"
    text = f"{chosen.probe} is Pareto-optimal: {figures}"
    more = [p for p in among if p.probe.replicas > chosen.probe.replicas]
    fewer = [p for p in among if p.probe.replicas < chosen.probe.replicas]
    if fewer:
        best = max(fewer, key=lambda p: p.output_tokens_per_second)
        text += (
            f", {compared(best, chosen)} {best.probe} ({best.output_tokens_per_second:,.0f} tok/s)"
        )
    if more:
        rival = max(more, key=lambda p: p.output_tokens_per_second)
        text += f"; {rival.probe} would change throughput by {_gain(chosen, rival):+.1%}"
        rival_energy = rival.joules_per_output_token
        if not throughput_only and energy and rival_energy:
            text += f" and energy per token by {rival_energy / energy - 1:+.1%}"
    if note:
        text += f"; {note}"
    if throughput_only:
        text += "; power is unknown here, so throughput alone decided"
    return text
