"""The knee: which measured point an objective chooses, and why each other one was not.

Every point gets its reason, with both numbers. Without power figures throughput alone decides, and
the choice says so. The rules are in docs/architecture.md; the published measurements that they are
tried on, in tests/unit/test_pareto_choice.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from slm_operator.pareto.noise import dominates, significantly_thriftier
from slm_operator.pareto.objective import NO_LIMITS, Limits, Objective
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.reasons import knee_sentence, lost, won
from slm_operator.pareto.rulings import Ruling
from slm_operator.pareto.worth import energy_excess, joules, thriftiest, worth_adding


@dataclass(frozen=True)
class Verdict:
    """What became of one point, and why, with both numbers."""

    point: OperatingPoint
    on_frontier: bool
    chosen: bool
    ruling: Ruling

    @property
    def why(self) -> str:
        return self.ruling.text


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
    rejected = {p.probe: broken for p in among if (broken := limits.broken_by(p))}
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
    sentence = knee_sentence(chosen, able, throughput_only, note)
    allowed = [p for p in able if p.probe not in rejected]
    verdicts = tuple(
        Verdict(
            point=point,
            on_frontier=point in able
            and not any(dominates(q, point, throughput_only) for q in able if q is not point),
            chosen=point is chosen,
            ruling=won(chosen, allowed, objective, throughput_only, sentence)
            if point is chosen
            else rejected.get(point.probe) or lost(chosen, point, objective),
        )
        for point in among
    )
    return Judgement(chosen, sentence, verdicts, throughput_only)


def _precedence(point: OperatingPoint) -> tuple[bool, str]:
    return point.probe.committed, point.measured_at


def _most_throughput(
    able: Sequence[OperatingPoint],
    objective: Objective,
    throughput_only: bool,
    rejected: dict[Probe, Ruling],
) -> OperatingPoint:
    """From the fewest replicas upwards, each that is worth it. Adds to ``rejected``."""
    least = thriftiest(able)
    bounded = objective.kind == "Balanced" and not throughput_only
    chosen: OperatingPoint | None = None
    for point in able:
        if bounded and (excess := energy_excess(least, point, objective)):
            rejected[point.probe] = excess
        elif chosen is None or worth_adding(chosen, point, objective):
            chosen = point
    # The thriftiest is within its own limit.
    return chosen or least


def _least_energy(able: Sequence[OperatingPoint]) -> OperatingPoint:
    """Of those within the noise of the least, the fewest replicas; of these the thriftiest."""
    least = thriftiest(able)
    tied = [p for p in able if not significantly_thriftier(p, least)]
    return min(tied, key=lambda p: (p.probe.replicas, joules(p), p.probe.max_num_seqs))


def _undominated(
    chosen: OperatingPoint,
    able: Sequence[OperatingPoint],
    objective: Objective,
    rejected: dict[Probe, Ruling],
) -> OperatingPoint:
    """Moves on to a point that is better in one way that counts and worse in none; a further
    replica counts as worse unless it is worth adding. It ends, since every move is upwards in an
    order."""
    while better := [
        p
        for p in able
        if p.probe not in rejected
        and p.output_tokens_per_second >= chosen.output_tokens_per_second
        and joules(p) <= joules(chosen)
        and (
            worth_adding(chosen, p, objective)
            or (p.probe.replicas <= chosen.probe.replicas and significantly_thriftier(chosen, p))
        )
    ]:
        chosen = min(better, key=lambda p: (joules(p), -p.output_tokens_per_second, p.probe))
    return chosen
