"""Decisions as values: what was decided, by which rule, from which figures, instead of what."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slm_operator.api.models import SLMService
from slm_operator.api.status import (
    ALTERNATIVES_KEPT,
    INPUTS_KEPT,
    Alternative,
    HistoryEntry,
    Input,
    JudgedPoint,
)
from slm_operator.decide import points as shown
from slm_operator.decide.demand import Wanted
from slm_operator.decide.exploring import Exploring
from slm_operator.decide.profile import Finding
from slm_operator.decide.snapshot import Unstartable
from slm_operator.pareto.choice import Verdict, choose
from slm_operator.pareto.idle import ZeroRule
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.reasons import walk_rulings
from slm_operator.pareto.rulings import Rule, Ruling
from slm_operator.pareto.search import Measure, SearchSpace, Settle, running_layout
from slm_operator.pareto.shift import Shift

KNEE_REASONS = ("KneeFound", "KneeRecommended")
PACK_RULES = {"DemandRising": Rule.DEMAND_RISING, "DemandFalling": Rule.DEMAND_FALLING}
ZERO_RULES: dict[ZeroRule, Rule] = {
    "NoRequests": Rule.NO_REQUESTS,
    "RequestsHeld": Rule.REQUESTS_HELD,
    "CannotHold": Rule.CANNOT_HOLD,
}


@dataclass(frozen=True)
class Explanation:
    """One decision, with all that it takes to check it."""

    reason: str
    """A CamelCase word: what kind of decision it is."""
    rule: Rule
    came_from: str
    """What ran before, in words; empty when nothing did."""
    to: str
    message: str
    inputs: tuple[Input, ...] = ()
    point: OperatingPoint | None = None
    """The point that was chosen, or the one that was just measured."""
    ruling: Ruling | None = None
    """What a rule said of ``point``: the one that decided, or of a point just measured, its own."""
    alternatives: tuple[Verdict, ...] = ()
    """The points that were passed over."""

    @property
    def telling(self) -> str:
        """For an event: the rule and the two numbers behind it, then the sentence."""
        said = self.rule.value
        if self.ruling is not None and self.ruling.rule is not self.rule:
            said += f" after {self.ruling.rule.value}"
        if self.ruling is not None and (compared := self.ruling.comparison) is not None:
            said += f" ({compared.quantity.value} {compared.value:,.0f} against "
            said += f"{compared.bound:,.0f})"
        return f"{said}: {self.message}"


def inputs(service: SLMService) -> tuple[Input, ...]:
    """All that spec.autoscaling asks for, by the names that the user writes there, and the batch
    where it is fixed."""
    # How slowly packs are removed matters only where demand does it.
    idle = set() if service.follows_demand else {"scale_down_stabilization"}
    if service.status.power is None:
        idle.add("power_priority")
    block = service.autoscaling.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude=idle
    )
    asked = _flat(block)
    batch = service.spec.engine.max_num_seqs
    if batch is not None:
        asked["maxNumSeqs"] = str(batch)
    return tuple(Input(name=name, value=value) for name, value in asked.items())


def probed(
    service: SLMService,
    measured: OperatingPoint,
    points: Sequence[OperatingPoint],
    step: Measure,
    space: SearchSpace,
) -> Explanation:
    """One window was measured, and which comes next. ``points``: all that is known, this window
    pooled with earlier ones of its probe."""
    known = next(p for p in points if p.probe == measured.probe)
    return Explanation(
        reason="Probed",
        rule=step.rule,
        came_from=str(measured.probe),
        to=str(step.probe),
        message=f"{shown.figures(measured)}; next: {step.why}",
        inputs=inputs(service),
        point=known,
        ruling=_so_far(known, points, space),
    )


def knee(service: SLMService, measured: OperatingPoint | None, step: Settle) -> Explanation:
    """The search is over. ``measured``: the point that ended it, if one did."""
    choice = step.choice
    (ruling,) = (v.ruling for v in choice.verdicts if v.chosen)
    return Explanation(
        reason="KneeFound" if service.autoscaling.mode == "Auto" else "KneeRecommended",
        rule=ruling.rule,
        came_from=str(measured.probe) if measured else "",
        to=str(running_layout(choice)),
        message=choice.sentence,
        inputs=inputs(service),
        point=choice.chosen,
        ruling=ruling,
        alternatives=tuple(v for v in choice.verdicts if not v.chosen),
    )


def reopened(service: SLMService, fingerprint: str, step: Measure) -> Explanation:
    """A finished search goes on. ``fingerprint``: today's."""
    status = service.status
    before = status.calibration.fingerprint if status.calibration else ""
    chosen = next((p for p in status.frontier if p.chosen), None)
    came_from = (
        str(Probe(chosen.layout_replicas, chosen.replicas_per_pack, chosen.max_num_seqs))
        if chosen
        else ""
    )
    if before == fingerprint:
        rule, why = Rule.POINT_MISSING, "what may run now includes what was never measured"
    else:
        rule = Rule.CONFIGURATION_CHANGED
        spec_changed = before.partition("-")[0] != fingerprint.partition("-")[0]
        what = (
            "model, engine, image, arguments, calibration load or GPU settings"
            if spec_changed
            else "the GPU, or the way in which it is shared,"
        )
        count = len(status.frontier)
        points = "1 point no longer counts" if count == 1 else f"{count} points no longer count"
        why = f"{what} changed, so {points}"
    return Explanation(
        reason="SearchReopened",
        rule=rule,
        came_from=came_from,
        to=str(step.probe),
        message=f"{why}; next: {step.why}",
        inputs=inputs(service),
    )


def layout_failed(failed: Unstartable, step: Measure | Settle | None) -> Explanation:
    """A layout could not be started and is left out."""
    layout = Probe(failed.replicas, failed.replicas, failed.max_num_seqs)
    return Explanation(
        reason="LayoutFailed",
        rule=Rule.LAYOUT_FAILED,
        came_from=str(layout),
        to=str(step.probe) if isinstance(step, Measure) else "",
        message=f"it could not be started: {failed.why}",
        inputs=(Input(name="leftOutUntil", value=failed.until),),
    )


def shifted(
    service: SLMService, shift: Shift, incumbent: Probe | None, reopened: str
) -> Explanation:
    """The traffic has become another one. ``reopened``: what is measured for it first; empty when
    points that count for it are known."""
    then = f"{reopened} is measured next" if reopened else "what was measured for it counts again"
    return Explanation(
        reason=shift.reason,
        rule=Rule.TRAFFIC_SHIFTED,
        came_from=str(incumbent) if incumbent else "",
        to=reopened,
        message=f"{shift.message}; {then}",
        inputs=inputs(service),
    )


def abandoned(replicas: int, exploring: Exploring) -> Explanation:
    """Users had to wait for too long while so many replicas were to be measured."""
    return Explanation(
        reason="ProbeAbandoned",
        rule=Rule.USERS_WAITED,
        came_from=f"{replicas} in rotation",
        to=str(exploring.probe),
        message=exploring.overrun,
    )


def profile_found(
    service: SLMService, found: Finding, step: Measure | Settle | None
) -> Explanation:
    """What became of a profile that another service left."""
    knee = str(found.knee) if found.knee else ""
    return Explanation(
        reason=found.reason,
        rule=found.rule,
        came_from="" if found.reason == "ProfileUsed" else knee,
        to=str(step.probe) if isinstance(step, Measure) else knee,
        message=found.message,
        inputs=inputs(service),
    )


def packs_changed(service: SLMService, before: int, wanted: Wanted) -> Explanation:
    """Packs are added or removed. ``before``: how many there were to be."""
    demand, bounds = wanted.demand, service.autoscaling
    rule = PACK_RULES.get(demand.rule, Rule.PACK_BOUNDS) if demand else Rule.PACK_BOUNDS
    message = (
        f"minPacks is {bounds.fewest_packs} and maxPacks {bounds.max_packs}"
        if demand is None or rule is Rule.PACK_BOUNDS
        else demand.sentence
    )
    if wanted.zero is not None:
        rule, message = ZERO_RULES[wanted.zero], _zero_sentence(service, wanted, wanted.zero)
    return Explanation(
        reason="PacksAdded" if wanted.packs > before else "PacksRemoved",
        rule=rule,
        came_from=packs_text(before),
        to=packs_text(wanted.packs),
        message=message,
        inputs=(*_demand_inputs(wanted), *inputs(service)),
        point=wanted.point,
    )


def _zero_sentence(service: SLMService, wanted: Wanted, rule: ZeroRule) -> str:
    if rule == "NoRequests":
        return (
            f"no request came for {service.autoscaling.scale_down_stabilization} and none is in "
            "flight; the activator holds the next ones until a pack runs"
        )
    if rule == "RequestsHeld":
        return f"{wanted.held} request{'' if wanted.held == 1 else 's'} wait at the activator"
    cause = wanted.no_zero.message if wanted.no_zero else "it does not hold requests"
    return f"without a pack nobody would take requests: {cause}"


def packs_text(count: int) -> str:
    return f"{count} pack{'' if count == 1 else 's'}"


def _demand_inputs(wanted: Wanted) -> tuple[Input, ...]:
    """The figures that the demand was judged by; work is in packs at their full capacity."""
    work = wanted.demand.work if wanted.demand else None
    if work is None:
        return ()
    figures = {
        "packsOfWorkLately": work.lately,
        "packsOfWorkAhead": work.ahead.mean,
        "packsOfForecastError": work.ahead.error,
        "packsOfWorkWaiting": work.backlog,
    }
    start = Input(name="packStartSeconds", value=f"{wanted.start_seconds:.0f}")
    return (*(Input(name=n, value=f"{v:.2f}") for n, v in figures.items()), start)


def entry(one: Explanation, now: str) -> HistoryEntry:
    """``one`` as the status keeps it: whole, but for the slowest of many alternatives."""
    fastest = sorted(one.alternatives, key=lambda v: -v.point.output_tokens_per_second)
    kept = fastest[:ALTERNATIVES_KEPT]
    return HistoryEntry(
        time=now,
        from_=one.came_from,
        to=one.to,
        reason=one.reason,
        rule=one.rule.value,
        message=one.message,
        inputs=one.inputs[:INPUTS_KEPT],
        point=one.point and JudgedPoint(**shown.judged(one.point, one.ruling)),
        alternatives=tuple(
            Alternative(**shown.judged(v.point, v.ruling), why=v.why)
            for v in one.alternatives
            if v in kept
        ),
        alternatives_omitted=len(fastest) - len(kept),
    )


def decision_id(uid: str, entry: HistoryEntry) -> str:
    """By which a decision about the service ``uid`` is found in log, events and history. Nothing
    has to be kept for it: it follows from what the history holds."""
    parts = (uid, entry.time, entry.reason, entry.from_, entry.to, entry.message)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def is_told(one: Explanation, history: Sequence[HistoryEntry]) -> bool:
    """Whether ``one`` was told since the last knee, as when a restarted operator meets again what
    it no longer knows of."""
    for before in reversed(history):
        if before.reason in KNEE_REASONS:
            return False
        if (before.reason, before.from_, before.message) == (
            one.reason,
            one.came_from,
            one.message,
        ):
            return True
    return False


def _flat(block: dict[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in block.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = str(value)
    return found


def _so_far(
    point: OperatingPoint, points: Sequence[OperatingPoint], space: SearchSpace
) -> Ruling | None:
    """What the rules say of one of ``points`` in mid-search: as a step of the walk, or among
    all."""
    probe = point.probe
    fewer = [
        p
        for p in points
        if (p.probe.layout_replicas, p.probe.max_num_seqs)
        == (probe.layout_replicas, probe.max_num_seqs)
        and p.probe.replicas == probe.replicas - 1
    ]
    if not probe.committed:
        return walk_rulings([*fewer, point], space.objective, space.limits)[probe]
    verdicts = choose(points, space.objective, space.limits).verdicts
    return next((v.ruling for v in verdicts if v.point is point), None)
