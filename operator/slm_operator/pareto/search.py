"""The search: probe by rotation, commit by layout.

Its only state is what was measured, so it resumes anywhere: the next step is a function of the
space and the points.

1. Start the layout with the most replicas worth trying and measure 1, 2, ... of them in rotation,
   which needs no restart, until a step is not worth its replica. The last that was worth it is
   proposed. A replica in rotation has only its share of the large layout's memory, so the walk
   proposes and does not choose.
2. Where the batch is open, measure one replica with a larger one: packing has to beat it.
3. Measure the proposed count in a layout of its own, with all memory divided among its replicas,
   then one fewer, and so on while a replica turns out not to be worth it.
4. Choose among these committed layouts alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from slm_operator.pareto.choice import Choice, choose
from slm_operator.pareto.noise import compared
from slm_operator.pareto.objective import NO_LIMITS, Limits, Objective
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.rulings import Rule
from slm_operator.pareto.worth import costs_too_much, power_known, thriftiest, worth_adding

LARGER_BATCH = 512
"""One replica at 256 or 512 sequences is the baseline that packing has to beat: the published
sweep of one H100 (OPT-1.3B) gains less than a percent past 512."""


@dataclass(frozen=True)
class SearchSpace:
    """What may be tried on one pack."""

    min_replicas: int
    max_replicas: int
    max_num_seqs: int
    batch_is_free: bool
    """Whether the user left the batch open, so that one replica is also tried with a larger one."""
    objective: Objective
    unstartable: frozenset[tuple[int, int]] = frozenset()
    """Layouts (replicas, max_num_seqs) that could not be started."""
    limits: Limits = NO_LIMITS
    """What a point must keep to be chosen."""


@dataclass(frozen=True)
class Measure:
    """Bring the pack to ``probe`` and measure a window there."""

    probe: Probe
    phase: str
    """Searching (by rotation) or Confirming (committed layouts)."""
    rule: Rule
    why: str


@dataclass(frozen=True)
class Settle:
    """The search is over: this is what the pack shall run."""

    choice: Choice
    walked: tuple[OperatingPoint, ...]
    """The points of the walk by rotation, in its order."""


def next_step(
    space: SearchSpace, points: Iterable[OperatingPoint], incumbent: Probe | None = None
) -> Measure | Settle:
    """What to do after ``points``. A point outside the space plays no part. ``incumbent``: the
    layout that was chosen before."""
    known = {p.probe: p for p in points if _inside(space, p.probe)}
    top = _largest_startable(space)

    walked: list[OperatingPoint] = []
    for replicas in range(space.min_replicas, top + 1):
        probe = Probe(top, replicas, space.max_num_seqs)
        if probe not in known:
            why = f"how much do {replicas} in rotation serve?"
            return Measure(probe, "Searching", Rule.NEXT_IN_ROTATION, why)
        walked.append(known[probe])
        if not _last_step_worth(walked, space.objective):
            break
    proposed = walked[-1] if _last_step_worth(walked, space.objective) else walked[-2]

    larger = Probe(1, 1, LARGER_BATCH)
    if _inside(space, larger) and larger not in known and not _fails(space, larger):
        why = f"does one replica gain from a batch of {LARGER_BATCH}?"
        return Measure(larger, "Confirming", Rule.LARGER_BATCH, why)

    missing = _missing_commitment(space, known, proposed.probe.replicas)
    if missing is not None:
        return missing
    committed = [p for p in known.values() if p.probe.committed]
    note = _beyond(walked, space.objective)
    choice = choose(committed, space.objective, space.limits, note, incumbent)
    plain = Probe(1, 1, space.max_num_seqs)
    if choice.chosen.probe == larger and plain not in known and not _fails(space, plain):
        why = "is the larger batch worth its latency?"
        return Measure(plain, "Confirming", Rule.SMALLER_BATCH, why)
    return Settle(choice, tuple(walked))


def running_layout(choice: Choice) -> Probe:
    """The committed layout that serves a choice."""
    chosen = choice.chosen.probe
    return Probe(chosen.replicas, chosen.replicas, chosen.max_num_seqs)


def _missing_commitment(
    space: SearchSpace, known: dict[Probe, OperatingPoint], proposed: int
) -> Measure | None:
    """The committed layout to measure next: from the proposed count downwards, until one whose
    last replica is worth it and whose energy is within the limit."""
    committed = [p for p in known.values() if p.probe.committed]
    best = {
        p.probe.replicas: p for p in sorted(committed, key=lambda p: p.output_tokens_per_second)
    }
    above: OperatingPoint | None = None
    for replicas in range(proposed, space.min_replicas - 1, -1):
        own = Probe(replicas, replicas, space.max_num_seqs)
        here = best.get(replicas)
        if here is None and not _fails(space, own):
            if above is None:
                why = "the proposed count with all memory divided among its replicas"
                return Measure(own, "Confirming", Rule.OWN_LAYOUT, why)
            why = "do fewer replicas serve as much with all memory divided among them?"
            return Measure(own, "Confirming", Rule.FEWER_IN_OWN_LAYOUT, why)
        if here is None:
            continue
        affordable = above is not None and not (
            power_known(committed) and costs_too_much(thriftiest(committed), above, space.objective)
        )
        if above is not None and affordable and worth_adding(here, above, space.objective):
            return None
        above = here
    if not committed:
        # Nothing starts alone; the layout of the walk does.
        top = _largest_startable(space)
        own = Probe(top, top, space.max_num_seqs)
        return Measure(own, "Confirming", Rule.WHAT_STARTS, "what does start")
    return None


def _largest_startable(space: SearchSpace) -> int:
    """The fewest, too, when nothing could be started: it is tried until it can."""
    layouts = range(space.max_replicas, space.min_replicas, -1)
    able = (n for n in layouts if (n, space.max_num_seqs) not in space.unstartable)
    return next(able, space.min_replicas)


def _fails(space: SearchSpace, probe: Probe) -> bool:
    return (probe.layout_replicas, probe.max_num_seqs) in space.unstartable


def _last_step_worth(walked: list[OperatingPoint], objective: Objective) -> bool:
    return len(walked) < 2 or worth_adding(walked[-2], walked[-1], objective)


def _beyond(walked: list[OperatingPoint], objective: Objective) -> str:
    """What a further replica brought, for the person who wonders why there are not more."""
    if _last_step_worth(walked, objective):
        return ""
    before, after = walked[-2:]
    return f"in rotation {after.probe.replicas} served {compared(before, after)} the one fewer"


def _inside(space: SearchSpace, probe: Probe) -> bool:
    if not space.min_replicas <= probe.replicas <= space.max_replicas:
        return False
    if probe.max_num_seqs == space.max_num_seqs:
        return True
    return space.batch_is_free and probe == Probe(1, 1, LARGER_BATCH)
