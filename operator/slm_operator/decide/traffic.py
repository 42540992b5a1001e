"""Which points count for the traffic of now, and whether that has become another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from slm_operator.api.models import SLMService
from slm_operator.api.status import WorkloadStatus
from slm_operator.decide.times import moment
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.rulings import Rule, Ruling
from slm_operator.pareto.shift import (
    Shift,
    ShiftRules,
    Watch,
    interrupted,
    observed,
    settled_reference,
    shifted,
    tally,
    watched,
)
from slm_operator.pareto.workload import Workload
from slm_worker.wire import Load, PackState

POINT_LIFETIME = timedelta(days=7)
"""Drivers, dust, seasons and neighbours change what a GPU gives without a trace in a fingerprint.
A week holds every hour and weekday once, and a search takes some minutes of it."""


@dataclass(frozen=True)
class Traffic:
    """What a point has to have been measured with to count."""

    workload: Workload | None = None
    """None until some traffic was seen (calibration.when Live)."""
    since: str | None = None
    """RFC 3339: older points do not count."""
    too_few_replicas: int = 0
    """So many let users wait too long when they were tried."""
    shift: Shift | None = None
    """What was found out in this very pass."""

    def counts(self, point: OperatingPoint, now: str, rules: ShiftRules) -> bool:
        """Whether ``point`` says something about this traffic, at ``now`` (RFC 3339)."""
        return self.why_not(point, now, rules) is None

    def why_not(self, point: OperatingPoint, now: str, rules: ShiftRules) -> Ruling | None:
        """Why ``point`` does not count; None when it does."""
        if moment(now) - moment(point.measured_at) > POINT_LIFETIME:
            return Ruling(Rule.OUTDATED, f"measured more than {POINT_LIFETIME.days} days ago")
        if self.since is not None and moment(point.measured_at) < moment(self.since):
            text = f"measured before {self.since}, when the power limit was changed"
            return Ruling(Rule.OUTDATED, text)
        if self.workload is None or point.workload is None:
            return None
        if point.workload.near(self.workload, rules.enter_ratio):
            return None
        text = f"measured with {point.workload} a request; the traffic has {self.workload}"
        return Ruling(Rule.OTHER_TRAFFIC, text)


def calibration_load(service: SLMService) -> Load:
    """The load of the operator's own, as the spec asks for it."""
    calibration = service.autoscaling.calibration
    return Load(prompt_tokens=calibration.prompt_tokens, output_tokens=calibration.output_tokens)


def expected(service: SLMService, same_fingerprint: bool) -> Traffic:
    """What the status says of the traffic; before anything was seen, what the operator's own load
    is like."""
    calibration, held = service.autoscaling.calibration, service.status.calibration
    own = None
    if calibration.when == "OnStart":
        own = Workload(calibration.prompt_tokens, calibration.output_tokens)
    if held is None or not same_fingerprint:
        return Traffic(own)
    return Traffic(
        workload=read_workload(held.workload) or own,
        since=held.points_since,
        too_few_replicas=held.too_few_replicas or 0,
    )


def follow(
    before: Traffic,
    watch: Watch,
    state: PackState,
    known: Sequence[OperatingPoint],
    chosen: Probe | None,
    now: str,
    rules: ShiftRules,
) -> tuple[Traffic, Watch]:
    """After one more look at the exploring pack. What it serves of a load of its own is no
    traffic."""
    if state.counters is None:
        return before, watch
    if state.plan is None or state.plan.load is not None or state.load.in_flight:
        return before, interrupted(watch)
    arrived = state.router.requests - state.load.sent
    watch = watched(watch, tally(state.agent_id, state.counters, arrived), rules)
    seen, reference = observed(watch, rules), before.workload
    if seen is None:
        return before, watch
    if reference is None:
        return replace(before, workload=seen), watch
    if reference.arrivals is None and seen.arrivals is not None:
        before = replace(before, workload=replace(reference, arrivals=seen.arrivals))
        return before, watch
    counting = [p for p in known if p.probe == chosen and before.counts(p, now, rules)]
    capped = counting[-1].power_capped_fraction if counting else None
    found = shifted(watch, reference, capped, rules)
    if found is None:
        return before, watch
    workloads = [p.workload for p in known if p.workload is not None]
    after = Traffic(
        workload=settled_reference(found.workload, workloads, rules),
        since=now if found.reason == "PowerLimitShifted" else before.since,
        shift=found,
    )
    return after, Watch()


def read_workload(status: WorkloadStatus | None) -> Workload | None:
    if status is None:
        return None
    return Workload(status.prompt_tokens, status.output_tokens, status.arrivals)


def workload_status(workload: Workload | None) -> WorkloadStatus | None:
    if workload is None:
        return None
    return WorkloadStatus(
        prompt_tokens=round(workload.prompt_tokens),
        output_tokens=round(workload.output_tokens),
        arrivals=workload.arrivals,
    )
