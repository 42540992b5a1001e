"""The knee: which measured point an objective chooses, and why each other one was not.

Every point gets its reason, with both numbers. Without power figures throughput alone decides, and
the choice says so. The rules are in docs/decision.md; the published measurements that they are
tried on, in tests/unit/test_pareto_choice.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from slm_operator.pareto import reasons
from slm_operator.pareto.noise import beyond_doubt, dominates, significantly_thriftier
from slm_operator.pareto.objective import NO_LIMITS, Limits, Objective
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.rulings import Rule, Ruling
from slm_operator.pareto.worth import (
    costs_too_much,
    displaces,
    energy_bounds,
    joules,
    power_known,
    seems_better,
    thriftiest,
    worth_adding,
)


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
    broken: Ruling | None = None
    """The limit that even the chosen point breaks: no other point comes nearer."""


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


def choose(
    points: Iterable[OperatingPoint],
    objective: Objective,
    limits: Limits = NO_LIMITS,
    note: str = "",
    incumbent: Probe | None = None,
) -> Choice:
    """The knee among ``points``, or the point that comes nearest to ``limits`` when none keeps
    them; ``note`` joins its sentence. Raises ValueError without a point."""
    known = list(points)
    found = judge(known, objective, limits, note, incumbent)
    if found.chosen is not None:
        return Choice(found.chosen, found.sentence, found.verdicts, found.throughput_only)
    among = candidates(known)
    if not among:
        raise ValueError(found.sentence)
    nearest = min(among, key=lambda p: (limits.excess(p), p.probe))
    broken = limits.broken_by(nearest)
    sentence = f"{nearest.probe} comes nearest to the limits, which no measured point keeps"
    if broken is not None:
        sentence += f"; {broken.text}"
    if note:
        sentence += f"; {note}"
    comparison = None if broken is None else broken.comparison
    said = Ruling(Rule.NEAREST_TO_LIMITS, sentence, comparison)
    verdicts = tuple(
        Verdict(v.point, False, True, said) if v.point is nearest else v for v in found.verdicts
    )
    return Choice(nearest, sentence, verdicts, found.throughput_only, broken)


def judge(
    points: Iterable[OperatingPoint],
    objective: Objective,
    limits: Limits = NO_LIMITS,
    note: str = "",
    incumbent: Probe | None = None,
) -> Judgement:
    """The knee among those of ``points`` that keep ``limits``, and a reason for all others.

    ``incumbent`` is what runs: while it keeps the limits, only a point that is better beyond doubt
    replaces it, so that measuring the same truth again does not move replicas about.
    """
    among = candidates(points)
    rejected = {p.probe: why for p in among if (why := limits.broken_by(p))}
    able = [p for p in among if p.probe not in rejected]
    throughput_only = not power_known(able)
    if not able:
        sentence = (
            f"none of {len(among)} points keeps the limits: relax them, or measure smaller batches"
            if among
            else "no measured point to choose from: measure at least one window first"
        )
        verdicts = tuple(Verdict(p, False, False, rejected[p.probe]) for p in among)
        return Judgement(None, sentence, verdicts, throughput_only)
    held = next((p for p in able if _same(p.probe, incumbent)), None)
    times = beyond_doubt(len(able) - 1)
    chosen = _chosen(able, held, objective, times, rejected)
    sentence = reasons.knee_sentence(chosen, able, throughput_only, note)
    allowed = [p for p in able if p.probe not in rejected]

    def said(point: OperatingPoint) -> Ruling:
        if point is chosen:
            rivals = [p for p in allowed if chosen is held and seems_better(held, p, objective)]
            if rivals:
                return reasons.kept(chosen, rivals, sentence)
            return reasons.won(chosen, allowed, objective, throughput_only, sentence)
        if point.probe in rejected:
            return rejected[point.probe]
        if chosen is held and seems_better(held, point, objective):
            return reasons.doubtful(held, point, able, objective, times)
        return reasons.lost(chosen, point, objective)

    verdicts = tuple(
        Verdict(
            point=point,
            on_frontier=point in able
            and not any(dominates(q, point, throughput_only) for q in able if q is not point),
            chosen=point is chosen,
            ruling=reasons.with_preemptions(said(point), point),
        )
        for point in among
    )
    return Judgement(chosen, sentence, verdicts, throughput_only)


def _precedence(point: OperatingPoint) -> tuple[bool, str]:
    return point.probe.committed, point.measured_at


def _same(probe: Probe, incumbent: Probe | None) -> bool:
    return incumbent is not None and (probe.replicas, probe.max_num_seqs) == (
        incumbent.replicas,
        incumbent.max_num_seqs,
    )


def _chosen(
    able: Sequence[OperatingPoint],
    held: OperatingPoint | None,
    objective: Objective,
    times: float,
    rejected: dict[Probe, Ruling],
) -> OperatingPoint:
    """The best, or ``held`` while nothing displaces it. Adds to ``rejected``."""
    best = _best(able, able, objective, rejected)
    if held is None or best is held:
        return best
    others = [p for p in able if p is not held]
    if energy_bounds(able, objective) and any(
        costs_too_much(other, held, objective, times) for other in others
    ):
        return _best(others, able, objective, rejected)
    better = [p for p in others if displaces(held, p, able, objective, times)]
    if better:
        return _best(better, able, objective, rejected)
    rejected.pop(held.probe, None)
    return held


def _best(
    points: Sequence[OperatingPoint],
    able: Sequence[OperatingPoint],
    objective: Objective,
    rejected: dict[Probe, Ruling],
) -> OperatingPoint:
    """The best of ``points``, whose energy is measured by all that are ``able``."""
    if objective.kind == "MinEnergyPerToken" and power_known(able):
        return _least_energy(points)
    chosen = _most_throughput(points, able, objective, rejected)
    return _undominated(chosen, points, objective, rejected)


def _most_throughput(
    points: Sequence[OperatingPoint],
    able: Sequence[OperatingPoint],
    objective: Objective,
    rejected: dict[Probe, Ruling],
) -> OperatingPoint:
    """From the fewest replicas upwards, each that is worth it. Adds to ``rejected``."""
    least = thriftiest(able)
    bounded = energy_bounds(able, objective)
    chosen: OperatingPoint | None = None
    for point in points:
        if bounded and costs_too_much(least, point, objective):
            rejected[point.probe] = reasons.costly(least, point, objective)
        elif chosen is None or worth_adding(chosen, point, objective):
            chosen = point
    # The thriftiest is within its own limit.
    return chosen or thriftiest(points)


def _least_energy(points: Sequence[OperatingPoint]) -> OperatingPoint:
    """Of those that no point undercuts by more than the noise, the fewest replicas; of these the
    thriftiest. Not the least alone is asked: where it is in doubt, a sure one may undercut more."""
    tied = [p for p in points if not any(significantly_thriftier(p, q) for q in points)]
    return min(tied, key=lambda p: (p.probe.replicas, joules(p), p.probe.max_num_seqs))


def _undominated(
    chosen: OperatingPoint,
    points: Sequence[OperatingPoint],
    objective: Objective,
    rejected: dict[Probe, Ruling],
) -> OperatingPoint:
    """Moves on to a point that is better in one way that counts and worse in none; a further
    replica counts as worse unless it is worth adding. It ends, since every move is upwards in an
    order."""
    while better := [
        p
        for p in points
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
