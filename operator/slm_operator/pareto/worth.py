"""What a point has to give to be worth more replicas or more energy than another."""

from __future__ import annotations

import math
from collections.abc import Sequence

from slm_operator.pareto.noise import (
    energy_confidence,
    energy_noise,
    significantly_more,
    significantly_thriftier,
    throughput_noise,
)
from slm_operator.pareto.objective import Objective
from slm_operator.pareto.points import OperatingPoint


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


def power_known(points: Sequence[OperatingPoint]) -> bool:
    """Whether energy can be compared: not while the power of some point is unknown."""
    return all(p.joules_per_output_token is not None for p in points)


def energy_bounds(points: Sequence[OperatingPoint], objective: Objective) -> bool:
    """Whether the energy limit applies to ``points``."""
    return objective.kind == "Balanced" and power_known(points)


def energy_excess(least: OperatingPoint, point: OperatingPoint) -> float:
    """By what share ``point`` spends more energy per token than ``least``."""
    return joules(point) / max(joules(least), 1e-9) - 1


def costs_too_much(
    least: OperatingPoint, point: OperatingPoint, objective: Objective, times: float = 1.0
) -> bool:
    """Whether ``point`` breaks the energy limit that ``least`` sets, by more than ``times`` both
    confidences."""
    doubt = 0.0 if point is least else times * energy_confidence(least, point)
    return energy_excess(least, point) - doubt > objective.max_energy_increase


def value(point: OperatingPoint, objective: Objective) -> float:
    """What the objective makes most of: throughput, divided by what each replica has to earn
    (Balanced), or output tokens per joule (MinEnergyPerToken)."""
    if objective.kind == "MinEnergyPerToken":
        return 1 / max(joules(point), 1e-9)
    if objective.kind == "MaxThroughput":
        return point.output_tokens_per_second
    return point.output_tokens_per_second / (
        (1 + objective.min_throughput_gain) ** point.probe.replicas
    )


def seems_better(held: OperatingPoint, point: OperatingPoint, objective: Objective) -> bool:
    """Whether ``point`` would be preferred to ``held``, did nothing run yet; limits aside."""
    if objective.kind == "MinEnergyPerToken" and power_known([held, point]):
        return significantly_thriftier(held, point)
    if point.probe.replicas >= held.probe.replicas:
        return worth_adding(held, point, objective)
    return not worth_adding(point, held, objective)


def displaces(
    held: OperatingPoint,
    point: OperatingPoint,
    among: Sequence[OperatingPoint],
    objective: Objective,
    times: float,
) -> bool:
    """Whether ``point`` is better than ``held``, which runs, beyond doubt: its throughput less what
    its further replicas have to earn (or plus what the fewer ones save) by more than ``times`` the
    noise, and its energy within the limit by as much. MinEnergyPerToken: its energy alone."""
    if objective.kind == "MinEnergyPerToken" and power_known(among):
        return significantly_thriftier(held, point, times)
    if point.output_tokens_per_second <= undoubted_tokens_per_second(held, point, objective, times):
        return False
    return not energy_bounds(among, objective) or (
        joules(point) <= undoubted_joules(point, among, objective, times)
    )


def undoubted_joules(
    point: OperatingPoint, among: Sequence[OperatingPoint], objective: Objective, times: float
) -> float:
    """Energy of an output token up to which ``point`` keeps the energy limit beyond doubt, whoever
    of ``among`` sets it."""
    return min(
        (
            joules(other) * (1 + objective.max_energy_increase - energy_noise(other, point, times))
            for other in among
            if other is not point
        ),
        default=math.inf,
    )


def undoubted_tokens_per_second(
    held: OperatingPoint, point: OperatingPoint, objective: Objective, times: float
) -> float:
    """Output tokens/s from which on ``point`` serves more than ``held`` beyond doubt, replicas
    taken into account."""
    ratio = required_ratio(held, point, objective) / required_ratio(point, held, objective)
    noise = throughput_noise(held, point, times)
    return ratio * held.output_tokens_per_second + max(1.0, ratio) * noise


def thriftiest(points: Sequence[OperatingPoint]) -> OperatingPoint:
    return min(points, key=joules)


def joules(point: OperatingPoint) -> float:
    """Energy of an output token; infinite while unknown."""
    energy = point.joules_per_output_token
    return math.inf if energy is None else energy
