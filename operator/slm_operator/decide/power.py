"""What a service claims of the cluster's power budget, by its measured points."""

from __future__ import annotations

from slm_operator.api.models import SLMService
from slm_operator.api.status import FrontierPoint
from slm_operator.decide import points as shown
from slm_operator.decide.limits import limits, objective
from slm_operator.pareto.choice import choose
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.power_share import Claim, Level
from slm_operator.pareto.rulings import Rule

SPOILED = frozenset((Rule.OTHER_TRAFFIC.value, Rule.OUTDATED.value, Rule.OUTSIDE_SPACE.value))


def can_be_held_back(service: SLMService) -> bool:
    """Only where the operator sets the count."""
    return service.spec.replicas_per_pack is None and service.autoscaling.mode == "Auto"


def claim(service: SLMService) -> Claim | None:
    """None for a service that cannot be held back, while nothing tells what a pack draws, and while
    a search goes on: half of the points would tell too much or too little."""
    known = service.status.calibration
    if not can_be_held_back(service) or known is None or known.phase != "Done":
        return None
    able = [p for p in service.status.frontier if _counts(p)]
    levels = _levels(service, shown.read(able))
    if not levels:
        return None
    return Claim(service.uid, service.wanted_packs, service.autoscaling.power_priority, levels)


def _counts(point: FrontierPoint) -> bool:
    committed = point.layout_replicas == point.replicas_per_pack
    return committed and point.power_watts is not None and point.rule not in SPOILED


def _levels(service: SLMService, points: tuple[OperatingPoint, ...]) -> tuple[Level, ...]:
    """What the service would choose under ever stricter limits of a pack's power, rising. None that
    breaks its own limits while one keeps them: no latency is given up for the cluster's watts."""
    found: list[Level] = []
    while points:
        choice = choose(points, objective(service), limits(service), incumbent=_incumbent(service))
        if found and choice.broken is not None:
            break
        chosen, power = choice.chosen, choice.chosen.power_watts or 0.0
        if not found or chosen.output_tokens_per_second < found[-1].output_tokens_per_second:
            found.append(Level(power, chosen.output_tokens_per_second))
        points = tuple(p for p in points if (p.power_watts or 0.0) < power)
    return tuple(reversed(found))


def _incumbent(service: SLMService) -> Probe | None:
    known = service.status.calibration
    layout = known.chosen if known is not None else None
    if layout is None:
        return None
    return Probe(layout.replicas_per_pack, layout.replicas_per_pack, layout.max_num_seqs)
