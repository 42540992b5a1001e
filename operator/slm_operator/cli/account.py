"""What there is to explain of a service: what runs, which rule chose it over what, and what the
operator waits for. Pure: everything is read from the service's status."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from slm_operator.api.base import ApiModel
from slm_operator.api.models import SLMService
from slm_operator.api.status import (
    CalibrationStatus,
    Condition,
    FailedLayout,
    FrontierPoint,
    HistoryEntry,
    Input,
    JudgedPoint,
)
from slm_operator.cli import tables
from slm_operator.cli.quantities import needed
from slm_operator.decide.calibrate import resting_probe, searches
from slm_operator.decide.explanation import inputs
from slm_operator.pareto.points import Probe
from slm_operator.pareto.rulings import LOST, Rule

SHORT_OF_WORTH = LOST | {Rule.WALK_STOPPED}
"""The rules by which a point lost, in the choice or on the way to it."""
PROGRESS = (
    "Searching",
    "Confirming",
    "Starting",
    "WaitingForLoad",
    "NothingMeasured",
    "FixedReplicas",
    "RecommendOnly",
    "DemandUnknown",
)
"""Reasons of a false condition that is nothing to mend."""
ANEW = (
    "another model, engine, image, argument, calibration load or GPU: then every point is "
    "measured anew"
)
STALE = (
    "requests of other lengths or arrivals for ten minutes, another power limit of the GPU, or "
    "points a week old: then what does not count any more is measured anew"
)


class NotExplainedError(Exception):
    """There is nothing to explain; the message says why, and what to do."""


@dataclass(frozen=True)
class Running:
    """What the packs run now."""

    what: str
    rule: str
    why: str
    since: str | None
    """RFC 3339; None when the status no longer tells."""


@dataclass(frozen=True)
class Account:
    """All that a person on call asks about a service's decisions."""

    service: SLMService
    running: Running
    chosen: FrontierPoint | None
    """The Pareto-optimal point, once it is known; in mode Recommend it does not run."""
    asked: tuple[Input, ...]
    alternatives: tuple[FrontierPoint, ...]
    """Those that lost first, then those that took no part."""
    left_out: tuple[FailedLayout, ...]
    """Layouts that could not be had, each with its cause and until when."""
    would_change: tuple[str, ...]
    """What would have to be otherwise for another decision."""
    waits_for: str
    troubles: tuple[Condition, ...]
    """The conditions that keep the service from what was decided, one of each cause."""

    @property
    def history(self) -> tuple[HistoryEntry, ...]:
        return self.service.status.history


def account(service: SLMService) -> Account:
    """Raises NotExplainedError when nothing was decided, or by an operator that kept no rules."""
    status = service.status
    if searches(service) and not status.frontier and not status.history:
        now = tables.measuring(status) or tables.standing(service)
        raise NotExplainedError(f"nothing has been decided for {service.name} yet: {now}")
    if status.frontier and not any(p.rule for p in status.frontier):
        raise NotExplainedError(
            f"the status of {service.name} was written by an operator of an earlier release, which "
            "kept no rules: run the operator of this slmctl's release, or see what was measured "
            f"with `slmctl points {service.name}`"
        )
    chosen = next((p for p in status.frontier if p.chosen), None)
    alternatives = sorted(
        (p for p in status.frontier if p is not chosen), key=lambda p: p.rule not in SHORT_OF_WORTH
    )
    return Account(
        service=service,
        running=_running(service, chosen),
        chosen=chosen,
        asked=inputs(service),
        alternatives=tuple(alternatives),
        left_out=status.calibration.failed_layouts if status.calibration else (),
        would_change=(*_would_change(alternatives), *_remeasured(service)) if chosen else (),
        waits_for=tables.measuring(status) or _waits_for(service, chosen),
        troubles=_troubles(status.conditions),
    )


def document(told: Account) -> dict[str, Any]:
    """For scripts; points and decisions as the status holds them."""
    service, running = told.service, told.running
    status = service.status
    return {
        "name": service.name,
        "namespace": service.namespace,
        "simulated": tables.simulated(service),
        "runs": {
            "layout": running.what,
            "since": running.since,
            "rule": running.rule,
            "why": running.why,
            "packs": service.wanted_packs,
            "readyPacks": status.ready_packs,
            "replicas": status.replicas,
            "readyReplicas": status.ready_replicas,
        },
        "chosen": told.chosen and _stored(told.chosen),
        "inputs": {i.name: i.value for i in told.asked},
        "alternatives": [_stored(p) for p in told.alternatives],
        "leftOut": [_stored(f) for f in told.left_out],
        "wouldChange": list(told.would_change),
        "waitsFor": told.waits_for,
        "troubles": [_stored(c) for c in told.troubles],
        "history": [_stored(e) for e in told.history],
    }


def _running(service: SLMService, chosen: FrontierPoint | None) -> Running:
    status = service.status
    calibrated = status.condition("Calibrated")
    if status.calibration is not None and status.calibration.measuring is not None:
        now = status.calibration.measuring
        probe = f"{now.replicas_per_pack} of {now.layout_replicas} replicas x {now.max_num_seqs}"
        why = "one pack runs what is being measured"
        if service.wanted_packs > 1:
            why += f"; the others run {_others(service, status.calibration)}"
        return Running(probe, Rule.BEING_MEASURED, why, now.since)
    since = calibrated.last_transition_time if calibrated else None
    if status.calibration is not None and status.calibration.phase == "Waiting":
        what = f"all {status.replicas} replicas that were started"
        why = "calibration.when is Live, and the users' requests do not fill what is to be measured"
        return Running(what, Rule.AWAITS_LOAD, why, since)
    if chosen is not None and service.autoscaling.mode == "Auto":
        return Running(
            tables.point_name(chosen), chosen.rule or "", chosen.why, _decided_at(service, chosen)
        )
    resting = str(resting_probe(service))
    if service.spec.replicas_per_pack is not None:
        why = f"spec.replicasPerPack fixes {service.spec.replicas_per_pack} replicas on each GPU"
        return Running(resting, Rule.FIXED_BY_SPEC, why, since)
    why = "no count is chosen, so the fewest run that minReplicasPerPack allows"
    return Running(resting, Rule.FEWEST_ALLOWED, why, since)


def _others(service: SLMService, calibration: CalibrationStatus) -> str:
    """What packs run that do not measure."""
    last = calibration.chosen
    if last is None or service.autoscaling.mode != "Auto":
        return str(resting_probe(service))
    return str(Probe(last.replicas_per_pack, last.replicas_per_pack, last.max_num_seqs))


def _decided_at(service: SLMService, chosen: FrontierPoint) -> str | None:
    """When ``chosen`` became what runs; None when the ten decisions kept no longer reach so far."""
    for entry in reversed(service.status.history):
        if entry.reason == "KneeFound":
            about = entry.point
            same = about is not None and _probe(about) == _probe(chosen)
            return entry.time if same else None
    return None


def _would_change(alternatives: Iterable[FrontierPoint]) -> list[str]:
    return [
        f"{tables.point_name(p)} {needed(p.compared)}"
        for p in alternatives
        if p.rule in SHORT_OF_WORTH and p.compared is not None
    ]


def _remeasured(service: SLMService) -> tuple[str, ...]:
    return (ANEW,) if service.autoscaling.calibration.when == "Never" else (ANEW, STALE)


def _waits_for(service: SLMService, chosen: FrontierPoint | None) -> str:
    if chosen is None and searches(service):
        return tables.standing(service)
    return "nothing: the decision stands until one of its inputs changes"


def _troubles(conditions: Iterable[Condition]) -> tuple[Condition, ...]:
    found: dict[str, Condition] = {}
    for condition in conditions:
        if condition.status == "False" and condition.reason not in PROGRESS:
            found.setdefault(condition.reason, condition)
    return tuple(found.values())


def _probe(point: JudgedPoint) -> tuple[int, int]:
    return point.replicas_per_pack, point.max_num_seqs


def _stored(model: ApiModel) -> dict[str, Any]:
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)
