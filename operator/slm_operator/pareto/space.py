"""What a search may try on one pack, and what it can answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slm_operator.pareto.choice import Choice
from slm_operator.pareto.objective import NO_LIMITS, Limits, Objective
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.rulings import Rule

LARGER_BATCH = 512
"""One replica at 256 or 512 sequences is the baseline that packing has to beat: the published
sweep of one H100 (OPT-1.3B) gains less than a percent past 512."""
SMALLER_BATCHES = (192, 128, 96, 64, 32)
"""What is tried where the batch is open and a larger one breaks a limit: those of the published
sweeps, whose ITL falls in steps of a quarter to a third."""
MAX_PROBES = 16
"""Three times what a search takes on the published curves; who needs more has a curve without a
knee, and gets the best that was seen."""

Known = dict[Probe, OperatingPoint]


@dataclass(frozen=True)
class SearchSpace:
    """What may be tried on one pack."""

    min_replicas: int
    max_replicas: int
    max_num_seqs: int
    """The batch; where it is open, the first one."""
    batch_is_free: bool
    """Whether the user left the batch open, so that one replica is also tried with a larger one,
    and smaller ones where this one breaks a limit."""
    objective: Objective
    unstartable: frozenset[tuple[int, int]] = frozenset()
    """Layouts (replicas, max_num_seqs) that could not be started."""
    limits: Limits = NO_LIMITS
    """What a point must keep to be chosen."""
    expected: Probe | None = None
    """Where the planner expects the optimum: what is measured first. It decides nothing."""
    max_probes: int = MAX_PROBES

    @property
    def batches(self) -> tuple[int, ...]:
        """Those for any number of replicas, from the one that is tried first downwards."""
        if not self.batch_is_free:
            return (self.max_num_seqs,)
        smaller = (b for b in SMALLER_BATCHES if b < self.max_num_seqs)
        return (self.max_num_seqs, *smaller)

    def holds(self, probe: Probe) -> bool:
        """Whether ``probe`` is part of the space."""
        if not self.min_replicas <= probe.replicas <= self.max_replicas:
            return False
        larger = probe == Probe(1, 1, LARGER_BATCH)
        return probe.max_num_seqs in self.batches or (larger and self.batch_is_free)

    def fails(self, probe: Probe) -> bool:
        """Whether its layout could not be started."""
        return (probe.layout_replicas, probe.max_num_seqs) in self.unstartable


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


def next_smaller(batches: Sequence[int], point: OperatingPoint, limits: Limits) -> int | None:
    """The batch to try when ``point`` breaks a limit: by as much smaller as it exceeds the limit,
    since ITL and power grow with the batch, and no faster; None when there is none."""
    fair = point.probe.max_num_seqs / (1 + limits.excess(point))
    smaller = [b for b in batches if b < point.probe.max_num_seqs]
    return max((b for b in smaller if b <= fair), default=min(smaller, default=None))
