"""The walk by rotation: how many replicas to propose, and with which batch."""

from __future__ import annotations

from slm_operator.pareto.objective import Objective
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.rulings import Rule
from slm_operator.pareto.space import Known, Measure, SearchSpace, next_smaller
from slm_operator.pareto.worth import (
    costs_too_much,
    energy_bounds,
    seems_better,
    thriftiest,
    value,
)

FIRST_REPLICAS = 2
"""Where the walk begins when nothing is expected: the knee of the published curves. One replica is
measured in any case, as the baseline."""
WORTH_A_WINDOW = 0.02
"""How much better a point has to look for another window to find out whether it is. Less is lost by
a wrong choice than the window costs."""


def walk(space: SearchSpace, known: Known) -> tuple[list[OperatingPoint], Measure | Probe]:
    """What was measured by rotation, in order, and what to measure next or the committed layout
    that it proposes."""
    tried, begin = _beginning(space, known)
    point = known.get(begin)
    if point is None:
        rule, why = Rule.NEXT_IN_ROTATION, f"how much do {begin.replicas} in rotation serve?"
        if tried and (broken := space.limits.broken_by(tried[-1])) is not None:
            rule, why = Rule.SMALLER_BATCH, f"a smaller batch, since {broken.text}"
        return tried, Measure(begin, "Searching", rule, why)
    if space.limits.broken_by(point):
        fewer = max(space.min_replicas, begin.replicas - 1)
        return [*tried, point], Probe(fewer, fewer, begin.max_num_seqs)

    walked = [point]
    for replicas in range(begin.replicas + 1, space.max_replicas + 1):
        probe = Probe(max(begin.layout_replicas, replicas), replicas, begin.max_num_seqs)
        if space.fails(probe):
            break
        if probe not in known:
            why = f"how much do {replicas} in rotation serve?"
            return [*tried, *walked], Measure(probe, "Searching", Rule.NEXT_IN_ROTATION, why)
        walked.append(known[probe])
        if not step_worth(space, known, *walked[-2:], or_promising=True):
            break
    worth = len(walked) == 1 or step_worth(space, known, *walked[-2:], or_promising=True)
    replicas = walked[-1 if worth else -2].probe.replicas
    return [*tried, *walked], Probe(replicas, replicas, begin.max_num_seqs)


def _beginning(space: SearchSpace, known: Known) -> tuple[list[OperatingPoint], Probe]:
    """The first probe whose batch is not known to break a limit, and those that are; the smallest
    batch when all do. Smaller batches that start with no count are left out: others may."""
    replicas, batch = _first(space)
    able = [b for b in space.batches if not space.fails(_first_of(space, replicas, b))]
    tried: list[OperatingPoint] = []
    while True:
        begin = _first_of(space, replicas, batch)
        point = known.get(begin)
        if point is None or not space.limits.broken_by(point):
            return tried, begin
        smaller = next_smaller(able, point, space.limits)
        if smaller is None:
            return tried, begin
        tried.append(point)
        batch = smaller


def _first_of(space: SearchSpace, replicas: int, batch: int) -> Probe:
    """Of a batch: one more is started than shall be in rotation."""
    top = startable(space, replicas + 1, batch)
    return Probe(top, min(replicas, top), batch)


def _first(space: SearchSpace) -> tuple[int, int]:
    """Replicas and batch that the walk begins with."""
    replicas, batch = FIRST_REPLICAS, space.batches[0]
    if space.expected is not None:
        replicas = space.expected.replicas
        batch = max((b for b in space.batches if b <= space.expected.max_num_seqs), default=batch)
    return min(max(replicas, space.min_replicas), space.max_replicas), batch


def step_worth(
    space: SearchSpace,
    known: Known,
    fewer: OperatingPoint,
    more: OperatingPoint,
    *,
    or_promising: bool = False,
) -> bool:
    """Whether ``more`` keeps the limits and would be chosen instead of ``fewer``; or may be, were
    there less noise."""
    better = seems_better(fewer, more, space.objective) or (
        or_promising and promises(fewer, more, space.objective)
    )
    if space.limits.broken_by(more) or not better:
        return False
    committed = [p for p in known.values() if p.probe.committed]
    among = [*committed, fewer, more]
    return not energy_bounds(among, space.objective) or not costs_too_much(
        thriftiest(among), more, space.objective
    )


def promises(chosen: OperatingPoint, rival: OperatingPoint, objective: Objective) -> bool:
    """Whether ``rival`` looks so much better that it is worth a window to find out."""
    return value(rival, objective) > value(chosen, objective) * (1 + WORTH_A_WINDOW)


def startable(space: SearchSpace, wanted: int, batch: int) -> int:
    """The largest layout up to ``wanted`` that was not seen to fail; the fewest, too, when nothing
    could be started: it is tried until it can."""
    layouts = range(min(wanted, space.max_replicas), space.min_replicas, -1)
    able = (n for n in layouts if not space.fails(Probe(n, n, batch)))
    return next(able, space.min_replicas)
