"""What a point has to give to be worth more replicas or more energy than another."""

from __future__ import annotations

import math
from collections.abc import Sequence

from slm_operator.pareto.noise import significantly_more
from slm_operator.pareto.objective import Objective
from slm_operator.pareto.points import OperatingPoint
from slm_operator.pareto.rulings import Quantity, Rule, Ruling, ruling


def worth_adding(fewer: OperatingPoint, more: OperatingPoint, objective: Objective) -> bool:
    """Whether ``more`` earns what it adds to ``fewer``: a replica must gain the wanted share, each
    one anew; a larger batch of as many replicas costs nothing and need only exceed the noise."""
    return significantly_more(fewer, more) and (
        more.output_tokens_per_second >= needed_tokens_per_second(fewer, more, objective)
    )


def needed_tokens_per_second(
    fewer: OperatingPoint, more: OperatingPoint, objective: Objective
) -> float:
    """Output tokens/s from which on ``more`` is worth adding to ``fewer``, the noise aside."""
    return fewer.output_tokens_per_second * required_ratio(fewer, more, objective)


def required_ratio(fewer: OperatingPoint, more: OperatingPoint, objective: Objective) -> float:
    if objective.kind == "MaxThroughput":
        return 1.0
    added = max(0, more.probe.replicas - fewer.probe.replicas)
    return float((1 + objective.min_throughput_gain) ** added)


def costs_too_much(
    point: OperatingPoint, among: Sequence[OperatingPoint], objective: Objective
) -> bool:
    """Whether ``point`` breaks the energy limit that the thriftiest of ``among`` sets; False while
    power is unknown."""
    if any(p.joules_per_output_token is None for p in among):
        return False
    return energy_excess(thriftiest(among), point, objective) is not None


def energy_excess(
    least: OperatingPoint, point: OperatingPoint, objective: Objective
) -> Ruling | None:
    """Why ``point`` costs too much energy per token; None when the limit holds within the noise."""
    energy, lowest = point.joules_per_output_token or 0.0, least.joules_per_output_token or 0.0
    excess = energy / max(lowest, 1e-9) - 1
    confidences = (
        p.confidence_tokens_per_second / max(p.output_tokens_per_second, 1e-9)
        for p in (least, point)
    )
    if excess - math.hypot(*confidences) <= objective.max_energy_increase:
        return None
    return ruling(
        Rule.ENERGY_ABOVE_LIMIT,
        Quantity.MICROJOULES_PER_OUTPUT_TOKEN,
        point,
        lowest * (1 + objective.max_energy_increase) * 1e6,
        f"{energy:.4f} J/token is {excess:.1%} above the least, {lowest:.4f}; "
        f"maxEnergyIncreasePercent allows {objective.max_energy_increase:.0%}",
    )


def thriftiest(points: Sequence[OperatingPoint]) -> OperatingPoint:
    return min(points, key=joules)


def joules(point: OperatingPoint) -> float:
    energy = point.joules_per_output_token
    return math.inf if energy is None else energy
