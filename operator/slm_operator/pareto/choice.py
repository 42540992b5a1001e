"""The knee: which measured point an objective chooses, and why each other one was not.

Every point gets its reason, with both numbers. Without power figures throughput alone decides, and
the choice says so. The rules are in docs/architecture.md; the published measurements that they are
tried on, in tests/unit/test_pareto_choice.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from slm_operator.pareto.noise import (
    compared,
    dominates,
    energy_noise,
    gain,
    significantly_more,
    significantly_thriftier,
    throughput_noise,
)
from slm_operator.pareto.objective import NO_LIMITS, Limits, Objective
from slm_operator.pareto.points import OperatingPoint, Probe


@dataclass(frozen=True)
class Verdict:
    """What became of one point, and why, with both numbers."""

    point: OperatingPoint
    on_frontier: bool
    chosen: bool
    why: str


@dataclass(frozen=True)
class Judgement:
    """What became of every candidate, by replicas and batch; ``chosen`` is None when all of them
    break a limit."""

    chosen: OperatingPoint | None
    sentence: str
    verdicts: tuple[Verdict, ...]
    throughput_only: bool


@dataclass(frozen=True)
class Choice(Judgement):
    """A judgement that found a point."""

    chosen: OperatingPoint


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


def choose(points: Iterable[OperatingPoint], objective: Objective, note: str = "") -> Choice:
    """The knee among ``points``; ``note`` joins its sentence. Raises ValueError without a point."""
    found = judge(points, objective, NO_LIMITS, note)
    if found.chosen is None:
        raise ValueError(found.sentence)
    return Choice(found.chosen, found.sentence, found.verdicts, found.throughput_only)


def judge(
    points: Iterable[OperatingPoint],
    objective: Objective,
    limits: Limits = NO_LIMITS,
    note: str = "",
) -> Judgement:
    """The knee among those of ``points`` that keep ``limits``, and a reason for all others."""
    among = candidates(points)
    rejected = {p.probe: why for p in among if (why := limits.broken_by(p))}
    able = [p for p in among if p.probe not in rejected]
    throughput_only = any(p.joules_per_output_token is None for p in able)
    if not able:
        sentence = (
            f"none of {len(among)} points keeps the limits: relax them, or measure smaller batches"
            if among
            else "no measured point to choose from: measure at least one window first"
        )
        verdicts = tuple(Verdict(p, False, False, rejected[p.probe]) for p in among)
        return Judgement(None, sentence, verdicts, throughput_only)
    if throughput_only or objective.kind != "MinEnergyPerToken":
        chosen = _most_throughput(able, objective, throughput_only, rejected)
    else:
        chosen = _least_energy(able)
    chosen = _undominated(chosen, able, objective, rejected)
    sentence = _sentence(chosen, able, throughput_only, note)
    verdicts = tuple(
        Verdict(
            point=point,
            on_frontier=point in able
            and not any(dominates(q, point, throughput_only) for q in able if q is not point),
            chosen=point is chosen,
            why=sentence
            if point is chosen
            else rejected.get(point.probe) or _lost(chosen, point, objective),
        )
        for point in among
    )
    return Judgement(chosen, sentence, verdicts, throughput_only)


def costs_too_much(
    point: OperatingPoint, among: Sequence[OperatingPoint], objective: Objective
) -> bool:
    """Whether ``point`` breaks the energy limit that the thriftiest of ``among`` sets; False while
    power is unknown."""
    if any(p.joules_per_output_token is None for p in among):
        return False
    return _energy_excess(_thriftiest(among), point, objective) is not None


def walk_verdicts(walked: Sequence[OperatingPoint], objective: Objective) -> dict[Probe, str]:
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


def worth_adding(fewer: OperatingPoint, more: OperatingPoint, objective: Objective) -> bool:
    """Whether ``more`` earns what it adds to ``fewer``: a replica must gain the wanted share, each
    one anew; a larger batch of as many replicas costs nothing and need only exceed the noise."""
    return significantly_more(fewer, more) and (
        more.output_tokens_per_second
        >= fewer.output_tokens_per_second * _required_ratio(fewer, more, objective)
    )


def _precedence(point: OperatingPoint) -> tuple[bool, str]:
    return point.probe.committed, point.measured_at


def _most_throughput(
    able: Sequence[OperatingPoint],
    objective: Objective,
    throughput_only: bool,
    rejected: dict[Probe, str],
) -> OperatingPoint:
    """From the fewest replicas upwards, each that is worth it. Adds to ``rejected``."""
    least = _thriftiest(able)
    bounded = objective.kind == "Balanced" and not throughput_only
    chosen: OperatingPoint | None = None
    for point in able:
        if bounded and (excess := _energy_excess(least, point, objective)):
            rejected[point.probe] = excess
        elif chosen is None or worth_adding(chosen, point, objective):
            chosen = point
    # The thriftiest is within its own limit.
    return chosen or least


def _least_energy(able: Sequence[OperatingPoint]) -> OperatingPoint:
    """Of those within the noise of the least, the fewest replicas; of these the thriftiest."""
    least = _thriftiest(able)
    tied = [p for p in able if not significantly_thriftier(p, least)]
    return min(tied, key=lambda p: (p.probe.replicas, _joules(p), p.probe.max_num_seqs))


def _undominated(
    chosen: OperatingPoint,
    able: Sequence[OperatingPoint],
    objective: Objective,
    rejected: dict[Probe, str],
) -> OperatingPoint:
    """Moves on to a point that is better in one way that counts and worse in none; a further
    replica counts as worse unless it is worth adding. It ends, since every move is upwards in an
    order."""
    while better := [
        p
        for p in able
        if p.probe not in rejected
        and p.output_tokens_per_second >= chosen.output_tokens_per_second
        and _joules(p) <= _joules(chosen)
        and (
            worth_adding(chosen, p, objective)
            or (p.probe.replicas <= chosen.probe.replicas and significantly_thriftier(chosen, p))
        )
    ]:
        chosen = min(better, key=lambda p: (_joules(p), -p.output_tokens_per_second, p.probe))
    return chosen


def _thriftiest(points: Sequence[OperatingPoint]) -> OperatingPoint:
    return min(points, key=_joules)


def _joules(point: OperatingPoint) -> float:
    energy = point.joules_per_output_token
    return math.inf if energy is None else energy


def _energy_excess(
    least: OperatingPoint, point: OperatingPoint, objective: Objective
) -> str | None:
    """Why ``point`` costs too much energy per token; None when the limit holds within the noise."""
    energy, lowest = point.joules_per_output_token or 0.0, least.joules_per_output_token or 0.0
    excess = energy / max(lowest, 1e-9) - 1
    confidences = (
        p.confidence_tokens_per_second / max(p.output_tokens_per_second, 1e-9)
        for p in (least, point)
    )
    if excess - math.hypot(*confidences) <= objective.max_energy_increase:
        return None
    return (
        f"{energy:.4f} J/token is {excess:.1%} above the least, {lowest:.4f}; "
        f"maxEnergyIncreasePercent allows {objective.max_energy_increase:.0%}"
    )


def _required_ratio(fewer: OperatingPoint, more: OperatingPoint, objective: Objective) -> float:
    if objective.kind == "MaxThroughput":
        return 1.0
    added = max(0, more.probe.replicas - fewer.probe.replicas)
    return float((1 + objective.min_throughput_gain) ** added)


def _lost(chosen: OperatingPoint, point: OperatingPoint, objective: Objective) -> str:
    """Why ``point``, which breaks no limit, lost against ``chosen``."""
    if objective.kind == "MinEnergyPerToken" and significantly_thriftier(point, chosen):
        return (
            f"{_joules(point):.4f} J/token is {_joules(point) / _joules(chosen) - 1:.1%} above the "
            f"{_joules(chosen):.4f} of {chosen.probe}"
        )
    if significantly_more(point, chosen):
        return (
            f"{chosen.probe} serves {chosen.output_tokens_per_second:,.0f} tok/s, "
            f"{compared(point, chosen)} its {point.output_tokens_per_second:,.0f}"
        )
    return _not_worth(chosen, point, objective)


def _not_worth(chosen: OperatingPoint, point: OperatingPoint, objective: Objective) -> str:
    text = (
        f"{point.output_tokens_per_second:,.0f} tok/s is {compared(chosen, point)} the "
        f"{chosen.output_tokens_per_second:,.0f} of {chosen.probe}"
    )
    required = _required_ratio(chosen, point, objective) - 1
    if required > 0 and gain(chosen, point) < required:
        return (
            f"{text}; {required:.1%} more is needed, by minThroughputGainPercent "
            f"{objective.min_throughput_gain:.0%} a replica"
        )
    if significantly_thriftier(point, chosen):
        return f"{text}, at {_joules(point) / _joules(chosen) - 1:.1%} more energy per token"
    if not significantly_more(chosen, point):
        return f"{text}, within the noise of {throughput_noise(chosen, point):,.0f} tok/s"
    return (
        f"{text}; its {_joules(point):.4f} J/token is within the noise of "
        f"{energy_noise(chosen, point):.1%} or above {_joules(chosen):.4f}"
    )


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
        text += f"; {rival.probe} would change throughput by {gain(chosen, rival):+.1%}"
        rival_energy = rival.joules_per_output_token
        if not throughput_only and energy and rival_energy:
            text += f" and energy per token by {rival_energy / energy - 1:+.1%}"
    if note:
        text += f"; {note}"
    if throughput_only:
        text += "; power is unknown here, so throughput alone decided"
    return text
