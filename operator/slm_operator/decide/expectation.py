"""Where the planner expects the optimum: what a search measures first, and what decides nothing."""

from __future__ import annotations

from collections.abc import Sequence

from slm_operator.pareto.choice import choose
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.space import SearchSpace
from slm_worker.wire import Outlook


def expected_layout(outlook: Sequence[Outlook], space: SearchSpace) -> Probe | None:
    """The layout of ``space`` that would be chosen, were the planner right. A batch that was not
    predicted stands for the nearest that was."""
    if not outlook:
        return None
    predicted = {one.max_num_seqs for one in outlook}
    points = []
    for batch in space.batches:
        nearest = min(predicted, key=lambda b: (abs(b - batch), b))
        points += [
            _point(one, batch)
            for one in outlook
            if one.max_num_seqs == nearest and space.holds(Probe(one.replicas, one.replicas, batch))
        ]
    if not points:
        return None
    return choose(points, space.objective, space.limits).chosen.probe


def _point(one: Outlook, batch: int) -> OperatingPoint:
    """The mean ITL stands for the percentile, which nobody predicts."""
    return OperatingPoint.without_window(
        Probe(one.replicas, one.replicas, batch),
        one.output_tokens_per_second,
        one.power_watts,
        simulated=False,
        itl_p95_seconds=one.itl_seconds,
    )
