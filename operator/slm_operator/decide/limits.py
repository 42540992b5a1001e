"""What the spec allows a point to take, and whether what was chosen keeps it."""

from __future__ import annotations

from slm_operator.api.models import SLMService
from slm_operator.api.status import Condition
from slm_operator.decide.said import Said
from slm_operator.pareto.objective import Limits, Objective
from slm_operator.pareto.points import OperatingPoint
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


def limits(service: SLMService) -> Limits:
    """What a point must keep to be chosen."""
    slo = service.autoscaling.slo
    return Limits(
        ttft_p95_seconds=_seconds(slo.ttft_p95) if slo else None,
        itl_p95_seconds=_seconds(slo.itl_p95) if slo else None,
        power_watts=service.autoscaling.power_budget_watts,
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


def power_budget_met(service: SLMService, step: Measure | Settle | None) -> Said:
    """Whether the chosen point keeps the power budget."""
    kind, budget = "PowerBudgetMet", service.autoscaling.power_budget_watts
    if budget is None:
        return Said(kind, "True", "NoLimit", "spec.autoscaling.powerBudgetWatts sets no limit")
    if not isinstance(step, Settle):
        return _as_before(service, kind, f"the power budget of {budget:,} W")
    chosen: OperatingPoint = step.choice.chosen
    if chosen.power_watts is None:
        text = f"nothing here measures power, so the budget of {budget:,} W bounds nothing"
        return Said(kind, "Unknown", "PowerUnknown", text)
    if broken := Limits(power_watts=budget).broken_by(chosen):
        message = (
            f"{chosen.probe}: {broken.text}, and no measured point comes nearer: raise "
            "spec.autoscaling.powerBudgetWatts, or allow fewer replicas or smaller batches"
        )
        return Said(kind, "False", "PowerAboveBudget", message)
    message = f"{chosen.probe} draws, saturated, {chosen.power_watts:,.0f} W of {budget:,} W"
    return Said(kind, "True", "Kept", message)


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
