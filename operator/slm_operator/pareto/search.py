"""The search: probe by rotation, commit by layout.

Its only state is what was measured, so it resumes anywhere: the next step is a function of the
space and the points.

1. Start a layout of three replicas, or of one more than the planner expects to be best, and
   measure all but one of them in rotation, then all, which needs no restart. While the last one
   is worth it, add another. The last count that was worth it is proposed. A replica in rotation
   has only its share of the larger layout's memory, so rotation proposes and does not choose.
2. Where the batch is open and breaks a limit, take a smaller one.
3. Measure the baseline that packing has to beat: one replica, with a larger batch where it is open.
4. Measure the proposed count in a layout of its own, with all memory divided among its replicas,
   then one fewer, and so on while a replica turns out not to be worth it.
5. Where the best one's KV cache ran full and the batch is open, try a smaller batch.
6. Choose among these committed layouts alone. Where another looks better than the chosen one and
   the noise leaves it open, measure one of the two again.
7. Where the choice would replace what was chosen before, measure the latter again first: two
   windows of it that differ show that the pack changed meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable

from slm_operator.pareto.choice import Choice, choose
from slm_operator.pareto.commitment import baseline, commitment
from slm_operator.pareto.noise import compared
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.rulings import Rule
from slm_operator.pareto.space import Known, Measure, SearchSpace, Settle
from slm_operator.pareto.walk import WORTH_A_WINDOW, promises, step_worth, walk
from slm_operator.pareto.worth import energy_bounds, energy_excess, thriftiest, value

__all__ = ["Measure", "SearchSpace", "Settle", "next_step", "running_layout"]


MOST_WINDOWS = 4
"""Of one probe in one search: the noise falls with their root, so more would tell little."""


def next_step(
    space: SearchSpace,
    points: Iterable[OperatingPoint],
    incumbent: Probe | None = None,
    out_of_time: bool = False,
) -> Measure | Settle:
    """What to do after ``points``. A point outside the space plays no part. ``incumbent``: the
    layout that was chosen before. ``out_of_time``: settle for what is known.

    Raises nothing: without any point the first is measured, whatever the budget says.
    """
    known = {p.probe: p for p in points if space.holds(p.probe)}
    walked, proposed = walk(space, known)
    step = proposed if isinstance(proposed, Measure) else None
    if step is None and isinstance(proposed, Probe):
        step = baseline(space, known) or commitment(space, known, walked, proposed)
    if step is None or (known and (out_of_time or _windows(known) >= space.max_probes)):
        return _conclusion(space, known, walked, incumbent, cut_short=step is not None)
    return step


def running_layout(choice: Choice) -> Probe:
    """The committed layout that serves a choice."""
    chosen = choice.chosen.probe
    return Probe(chosen.replicas, chosen.replicas, chosen.max_num_seqs)


def _conclusion(
    space: SearchSpace,
    known: Known,
    walked: list[OperatingPoint],
    incumbent: Probe | None,
    cut_short: bool,
) -> Measure | Settle:
    """The choice, or the incumbent's second window when it would be replaced."""
    committed = [p for p in known.values() if p.probe.committed]
    note = _beyond(space, known, walked)
    if cut_short:
        spent = f"the search was cut short after {_windows(known)} windows"
        note = f"{note}; {spent}" if note else spent
    among = committed or list(known.values())
    choice = choose(among, space.objective, space.limits, note, incumbent)
    if incumbent is None and not cut_short and _windows(known) < space.max_probes:
        doubt = _in_doubt(space, choice, among)
        if doubt is not None:
            return doubt
    before = None if incumbent is None else known.get(incumbent)
    if (
        before is not None
        and not cut_short
        and choice.chosen.probe != incumbent
        and before.measured_at < choice.chosen.measured_at
        and not space.limits.broken_by(before)
    ):
        why = f"is {choice.chosen.probe} better, or did the GPU change meanwhile?"
        return Measure(before.probe, "Confirming", Rule.INCUMBENT_AGAIN, why)
    return Settle(choice, tuple(walked))


def _in_doubt(space: SearchSpace, choice: Choice, among: list[OperatingPoint]) -> Measure | None:
    """A further window where the noise leaves open whether another point is better than the chosen
    one, or whether that keeps the energy limit: of the one that was measured less."""
    chosen = choice.chosen
    rival = _rival(space, choice, among)
    if rival is None or choice.broken is not None:
        return None
    again = rival if space.limits.broken_by(rival) else min((chosen, rival), key=lambda p: p.runs)
    if again.runs >= MOST_WINDOWS:
        return None
    why = f"{chosen.probe} or {rival.probe}? the noise leaves it open"
    return Measure(again.probe, "Confirming", Rule.RIVAL_AGAIN, why)


def _rival(
    space: SearchSpace, choice: Choice, among: list[OperatingPoint]
) -> OperatingPoint | None:
    chosen, objective = choice.chosen, space.objective
    keeping = [p for p in among if not space.limits.broken_by(p)]
    if keeping and energy_bounds(keeping, objective):
        least = thriftiest(keeping)
        if energy_excess(least, chosen) > objective.max_energy_increase + WORTH_A_WINDOW:
            return least
    rivals = [
        v.point
        for v in choice.verdicts
        if promises(chosen, v.point, objective)
        and v.ruling.rule is not Rule.ENERGY_ABOVE_LIMIT
        and space.limits.excess(v.point) <= _uncertainty(v.point)
    ]
    return max(rivals, key=lambda p: value(p, objective), default=None)


def _uncertainty(point: OperatingPoint) -> float:
    return point.confidence_tokens_per_second / max(point.output_tokens_per_second, 1e-9)


def _windows(known: Known) -> int:
    return sum(p.runs for p in known.values())


def _beyond(space: SearchSpace, known: Known, walked: list[OperatingPoint]) -> str:
    """What a further replica brought, for the person who wonders why there are not more."""
    if len(walked) < 2 or step_worth(space, known, *walked[-2:]):
        return ""
    before, after = walked[-2:]
    if before.probe.replicas >= after.probe.replicas:
        return ""
    return f"in rotation {after.probe.replicas} served {compared(before, after)} the one fewer"
