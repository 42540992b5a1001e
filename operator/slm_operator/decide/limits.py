"""What the spec allows a point to take, and whether what was chosen keeps it."""

from __future__ import annotations

from collections.abc import Sequence

from slm_operator.api.models import SLMService
from slm_operator.api.status import Condition, PowerStatus
from slm_operator.decide.said import Said
from slm_operator.decide.snapshot import Pack
from slm_operator.pareto.objective import Limits, Objective
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.search import Measure, Settle

PREEMPTION_STORM = 1.0
"""Preemptions a request from which on a layout is out of the question: each request is computed
twice on average, and its latency is that of the queue for the KV cache. The published H100
measurements have 0.3 where four replicas share the memory, which still serve well."""


def objective(service: SLMService) -> Objective:
    autoscaling = service.autoscaling
    return Objective(
        autoscaling.objective,
        autoscaling.min_throughput_gain_percent / 100,
        autoscaling.max_energy_increase_percent / 100,
    )


def limits(service: SLMService, power: PowerStatus | None = None) -> Limits:
    """What a point must keep to be chosen. ``power``: the share of the cluster's budget."""
    slo = service.autoscaling.slo
    share = power.limit_watts_per_pack if power is not None else None
    budgets = [w for w in (service.autoscaling.power_budget_watts, share) if w is not None]
    return Limits(
        ttft_p95_seconds=_seconds(slo.ttft_p95) if slo else None,
        itl_p95_seconds=_seconds(slo.itl_p95) if slo else None,
        power_watts=min(budgets, default=None),
        preemptions_per_request=PREEMPTION_STORM,
    )


def slo_met(service: SLMService, step: Measure | Settle | None) -> Said:
    """Whether the chosen point keeps the latencies."""
    kind, allowed = "SLOMet", limits(service)
    wanted = Limits(
        ttft_p95_seconds=allowed.ttft_p95_seconds, itl_p95_seconds=allowed.itl_p95_seconds
    )
    if wanted == Limits():
        return Said(kind, "True", "NoLimit", "spec.autoscaling.slo sets no latency")
    if not isinstance(step, Settle):
        return _as_before(service, kind, "the latencies of spec.autoscaling.slo")
    chosen = step.choice.chosen
    if broken := wanted.broken_by(chosen):
        remedy = (
            "relax spec.autoscaling.slo, or leave spec.engine.maxNumSeqs out so that smaller "
            "batches are tried"
            if service.spec.engine.max_num_seqs
            else "relax spec.autoscaling.slo, or use a faster GPU"
        )
        message = f"{chosen.probe}: {broken.text}, and no measured point comes nearer: {remedy}"
        return Said(kind, "False", "LatencyAboveSLO", message)
    figures = [
        f"{name} {value * 1000:,.1f} ms of {limit * 1000:,.1f} ms"
        for name, value, limit in (
            ("TTFT p95", chosen.ttft_p95_seconds, wanted.ttft_p95_seconds),
            ("ITL p95", chosen.itl_p95_seconds, wanted.itl_p95_seconds),
        )
        if value is not None and limit is not None
    ]
    if not figures:
        text = "the window of the chosen point told no latency, so it is not known to break any"
        return Said(kind, "Unknown", "LatencyUnknown", text)
    message = f"{chosen.probe} keeps, saturated, {' and '.join(figures)}"
    return Said(kind, "True", "Kept", message)


def power_budget_met(
    service: SLMService,
    step: Measure | Settle | None,
    power: PowerStatus | None,
    behind: Sequence[Pack],
    points: Sequence[OperatingPoint],
) -> Said:
    """Whether the chosen point keeps the power budget, and this service's share of the cluster's
    (``power``). ``behind``: packs that serve in another layout; ``points``: those that count."""
    kind, own = "PowerBudgetMet", service.autoscaling.power_budget_watts
    budget = limits(service, power).power_watts
    if own is None and power is None:
        return Said(kind, "True", "NoLimit", "spec.autoscaling.powerBudgetWatts sets no limit")
    what = f"the power budget of {budget:,.0f} W" if budget else "the cluster's power budget"
    if not isinstance(step, Settle):
        return _as_before(service, kind, what)
    chosen: OperatingPoint = step.choice.chosen
    if chosen.power_watts is None:
        text = f"nothing here measures power, so {what} bounds nothing"
        return Said(kind, "Unknown", "PowerUnknown", text)
    shared = power is not None and power.limit_watts_per_pack == budget != own
    if broken := Limits(power_watts=budget).broken_by(chosen):
        remedy = (
            f"raise the operator's --cluster-power-budget-watts ({power.cluster_budget_watts:,} W "
            "for all services) or spec.autoscaling.powerPriority, or remove packs"
            if power is not None and shared
            else "raise spec.autoscaling.powerBudgetWatts, or allow fewer replicas or smaller "
            "batches"
        )
        message = f"{chosen.probe}: {broken.text}, and no measured point comes nearer: {remedy}"
        return Said(kind, "False", "PowerAboveBudget", message)
    if power is not None and power.exceeded:
        message = (
            f"the measured services exceed the cluster's {power.cluster_budget_watts:,} W even "
            f"with each at its least; this one draws {power.allotted_watts:,} W, saturated: raise "
            "the operator's --cluster-power-budget-watts, remove packs, or allow fewer replicas"
        )
        return Said(kind, "False", "ClusterPowerExceeded", message)
    drawn = f"{chosen.probe} draws, saturated, {chosen.power_watts:,.0f} W"
    message = drawn if budget is None else f"{drawn} of {budget:,.0f} W"
    if unkept := [p.name for p in behind if budget is not None and not _keeps(p, points, budget)]:
        text = (
            f"{message}; until their turn {', '.join(unkept)} serve in layouts that may draw more"
        )
        return Said(kind, "Unknown", "LayoutChanging", text)
    if power is None:
        return Said(kind, "True", "Kept", message)
    whole = f"the cluster's {power.cluster_budget_watts:,} W"
    if shared:
        message += (
            f", its share of {whole} at powerPriority {service.autoscaling.power_priority}; "
            f"{power.given_up_tokens_per_second:,} output tok/s are given up for that"
        )
        return Said(kind, "True", "PowerShared", message)
    return Said(kind, "True", "Kept", f"{message}; {whole} take nothing off it")


def _keeps(pack: Pack, points: Sequence[OperatingPoint], budget_watts: float) -> bool:
    """Whether what the pack runs was measured to draw no more."""
    plan = pack.agent.plan if pack.agent is not None else None
    if plan is None:
        return False
    runs = Probe(plan.layout.replicas, plan.rotation, plan.layout.max_num_seqs)
    drawn = (p.power_watts for p in points if p.probe == runs)
    return any(watts is not None and watts <= budget_watts for watts in drawn)


def _as_before(service: SLMService, kind: str, what: str) -> Said:
    """While nothing new is known: what was said before of this spec, if anything."""
    before: Condition | None = service.status.condition(kind)
    if before is not None and before.observed_generation == service.generation:
        return Said(kind, before.status, before.reason, before.message)
    return Said(kind, "Unknown", "NotMeasured", f"nothing was measured yet to hold against {what}")


def _seconds(duration: str | None) -> float | None:
    if duration is None:
        return None
    if duration.endswith("ms"):
        return float(duration.removesuffix("ms")) / 1000
    return float(duration.removesuffix("s"))
