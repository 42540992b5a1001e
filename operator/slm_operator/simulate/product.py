"""The product's own decisions in a simulation: choice of the layout, and packs by demand."""

from __future__ import annotations

from dataclasses import replace

from slm_operator.pareto.choice import Choice, choose
from slm_operator.pareto.demand import (
    Demand,
    DemandMemory,
    DemandRules,
    DemandSample,
    PackCost,
    decide_packs,
)
from slm_operator.pareto.objective import Objective
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.simulate.hardware import Hardware
from slm_operator.simulate.seen import Seen
from slm_operator.simulate.service import Layout
from slm_worker.planning.workload import Workload


def calibrated(hardware: Hardware, load: Workload) -> list[OperatingPoint]:
    """What a calibration with requests of these mean lengths would measure at each layout of the
    curve."""
    return [_point(hardware, n, batch, load) for n, batch in hardware.curve.layouts]


def chosen_layout(hardware: Hardware, load: Workload, objective: Objective) -> Choice:
    """The knee among them, by the operator's own rules."""
    return choose(calibrated(hardware, load), objective)


def pack_cost(hardware: Hardware, layout: Layout, load: Workload) -> PackCost:
    """Of requests like ``load``, from the throughput that the layout was measured to have."""
    tokens_per_second, _ = hardware.saturated(layout.replicas, layout.max_num_seqs, load)
    costs = hardware.costs
    known = PackCost(costs.prompt_seconds, 0.0, costs.context_seconds)
    of_lengths = known.seconds(load.prompt_tokens, load.output_tokens) / load.output_tokens
    rest = max(0.0, 1 / tokens_per_second - of_lengths)
    return replace(known, output_token_seconds=rest)


class ParetoPolicy:
    """``decide_packs`` on the counters that a service reports."""

    def __init__(self, cost: PackCost, rules: DemandRules) -> None:
        self.period_seconds = rules.period_seconds
        self.decisions: list[tuple[float, Demand]] = []
        self._cost = cost
        self._rules = rules
        self._memory = DemandMemory()

    def wanted(self, seen: Seen) -> int:
        counters = seen.counters
        sample = DemandSample(
            at_seconds=seen.now_seconds,
            arrived=counters.arrived,
            completed=counters.completed,
            prompt_tokens=counters.prompt_tokens,
            output_tokens=counters.output_tokens,
            waiting=sum(r.waiting for pack in seen.packs for r in pack.replicas),
        )
        demand, self._memory = decide_packs(
            self._memory, sample, seen.now_seconds, seen.wanted, self._cost, self._rules
        )
        if not self.decisions or self.decisions[-1][1].packs != demand.packs:
            self.decisions.append((seen.now_seconds, demand))
        return demand.packs


def _point(hardware: Hardware, replicas: int, batch: int, load: Workload) -> OperatingPoint:
    tokens_per_second, watts = hardware.saturated(replicas, batch, load)
    return OperatingPoint.without_window(
        Probe(replicas, replicas, batch), tokens_per_second, watts, simulated=True
    )
