"""The conditions of a service: for each, what is so, and cause and remedy when it is not.

Messages hold nothing that changes from second to second, so that an unchanged state is no write.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from slm_operator.api.models import SLMService
from slm_operator.api.status import Condition, PowerStatus
from slm_operator.decide.calibrate import Calibration, searches
from slm_operator.decide.demand import Wanted
from slm_operator.decide.explanation import packs_text
from slm_operator.decide.limits import power_budget_met, slo_met
from slm_operator.decide.said import Said, State
from slm_operator.decide.snapshot import Pack, Trouble
from slm_operator.pareto.search import Measure, Settle
from slm_worker.planning.packing import with_remedies
from slm_worker.planning.remedies import remedies
from slm_worker.wire import PackState, ReplicaPhase

WINDOW_REASONS = {
    "NotSaturated": "the window is not saturated: every replica in rotation has to be full with "
    "requests waiting; see the pack's log for failures of the load",
    "CounterReset": "the agent restarted and counts from zero, so the window starts anew",
    "ReplicaRestarted": "a replica was started inside the window, so it starts anew",
    "MetricsMissing": "a replica in rotation did not answer a sample, so the window starts anew",
    "Throttled": "heat, the board or its supply holds the clocks down, and what a GPU serves "
    "meanwhile is less than it can: see to the node's cooling and power",
    "LoadFails": "more than 1 % of the load's requests fail, so what is served is other traffic "
    "than was asked for; see the pack's log",
}
"""Stable texts for what breaks a window; the changing numbers stay in the log."""
SEVERITY = ("Healthy", "Degraded", "Unresponsive", "Lost")
"""A GPU's states of health, the worst last."""


def conditions(
    service: SLMService,
    packs: Sequence[Pack],
    calibration: Calibration,
    wanted: Wanted,
    refused: Trouble | None,
    power: PowerStatus | None,
    progressing: Said,
    behind: Sequence[Pack],
    now: str,
) -> tuple[Condition, ...]:
    """All conditions, with the time of the last change of each. ``refused``: what the API server
    or an agent said no to in the last pass. ``power``: the share of the cluster's budget.
    ``progressing``: where the rollout stands. ``behind``: packs that serve in another layout than
    they shall."""
    said: Sequence[Said] = (
        _ready(service, packs, calibration, wanted.packs, refused),
        _gpu_allocated(packs),
        _packing_feasible(service, packs, calibration),
        _mps_ready(service, packs),
        _metrics_available(packs, calibration),
        _calibrated(service, packs, calibration),
        _scaling_active(service, wanted),
        progressing,
        slo_met(service, calibration.step),
        power_budget_met(service, calibration.step, power, behind, calibration.counting),
    )
    if wanted.packs == 0 and not packs:
        said = [_asleep(s) if s.status == "Unknown" else s for s in said]
    before = {c.type: c for c in service.status.conditions}
    return tuple(_dated(s, before.get(s.type), service.generation, now) for s in said)


def pack_trouble(pack: Pack) -> Trouble | None:
    """What keeps this pack from serving, the most basic cause first."""
    state = pack.agent
    agent = None
    if state is not None and state.problem is not None:
        agent = Trouble(state.problem.reason, state.problem.message)
    return pack.scheduling or pack.container or pack.node or pack.silence or agent


def _ready(
    service: SLMService,
    packs: Sequence[Pack],
    calibration: Calibration,
    wanted: int,
    refused: Trouble | None,
) -> Said:
    ready = sum(p.ready for p in packs)
    needed = wanted
    if service.follows_demand:
        # Packs that demand adds beyond the fewest are a gain once they are there, no lack before.
        needed = min(wanted, max(1, service.autoscaling.fewest_packs))
        packs = [p for p in packs if p.ready] if ready >= needed else packs
    troubles = [t for p in packs if (t := pack_trouble(p))]
    if refused is not None:
        return Said("Ready", "False", refused.reason, refused.message)
    feasible = _packing_feasible(service, packs, calibration)
    if feasible.status == "False":
        return Said("Ready", "False", feasible.reason, feasible.message)
    # A pack more than needed, such as a rollout's first, is no lack while it does not answer.
    if troubles and (ready < needed or not _same_as_planned([p for p in packs if p.ready])):
        return Said("Ready", "False", troubles[0].reason, troubles[0].message)
    if ready < needed:
        return Said("Ready", "False", "Starting", f"{ready} of {wanted} packs answer requests")
    if wanted == 0:
        text = "no pack runs, since nothing is asked for; the first request waits until one does"
        return Said("Ready", "True", "ScaledToZero", text)
    if isinstance(calibration.step, Measure) and not calibration.waiting:
        message = "serving while the replica count is being found"
        return Said("Ready", "True", calibration.step.phase, message)
    return Said("Ready", "True", "Serving", f"{ready} of {wanted} packs answer requests")


def _asleep(said: Said) -> Said:
    text = "no pack runs, since nothing is asked for"
    return Said(said.type, said.status, "ScaledToZero", text)


def _same_as_planned(packs: Sequence[Pack]) -> bool:
    return all(p.agent is not None and p.agent.settled for p in packs)


def _gpu_allocated(packs: Sequence[Pack]) -> Said:
    kind = "GPUAllocated"
    waiting = [p.scheduling for p in packs if p.scheduling]
    if waiting:
        return Said(kind, "False", waiting[0].reason, waiting[0].message)
    if not packs:
        return Said(kind, "Unknown", "Starting", "no pack has been created yet")
    ailing = [(p, p.agent.gpu.health) for p in packs if p.agent is not None]
    ailing = [(p, health) for p, health in ailing if health.state != "Healthy"]
    if ailing:
        pack, health = max(ailing, key=lambda one: SEVERITY.index(one[1].state))
        serves: State = "True" if health.state == "Degraded" else "False"
        return Said(kind, serves, health.reason, f"the GPU of {pack.name}: {health.message}")
    for pack, problem in ((p, p.agent.problem) for p in packs if p.agent is not None):
        # The device was never opened, so that nothing is known of its health.
        if problem is not None and problem.reason == "DeviceUnavailable":
            told = f"the GPU of {pack.name}: {problem.message}"
            return Said(kind, "False", problem.reason, told)
    return Said(kind, "True", "Allocated", "every pack has a node")


def _packing_feasible(service: SLMService, packs: Sequence[Pack], calibration: Calibration) -> Said:
    kind = "PackingFeasible"
    sized = [(s.packing, s.gpu, p.name) for p in packs if (s := p.agent) and s.packing]
    if not sized:
        return Said(kind, "Unknown", "ModelNotRead", "no pack has read the model's size yet")
    packing, gpu, name = min(sized, key=lambda one: one[0].max_replicas)
    alike = all(one[0].max_replicas == packing.max_replicas for one in sized)
    where = "" if alike else f"on the GPU of {name} "
    autoscaling = service.autoscaling
    least = service.spec.replicas_per_pack or autoscaling.min_replicas_per_pack
    if packing.max_replicas < least:
        text = f"{where}{packing.max_replicas} replicas fit, {least} are wanted: {packing.message}"
        text = with_remedies(text, remedies(least, packing, gpu))
        return Said(kind, "False", "DoesNotFit", text)
    if failed := calibration.memory.unstartable:
        layouts = ", ".join(f"{u.replicas} x {u.max_num_seqs}" for u in failed)
        text = f"could not be started: {layouts} ({failed[-1].why})"
        return Said(kind, "True", "FewerStarted", text)
    if packing.max_replicas < autoscaling.max_replicas_per_pack and searches(service):
        bounds = "so no more are tried" if alike else "so it runs no more, whatever others run"
        text = f"{where}{packing.max_replicas} replicas fit, {bounds}: {packing.message}"
        return Said(kind, "True", "FewerFit", text)
    return Said(kind, "True", "Fits", packing.message)


def _mps_ready(service: SLMService, packs: Sequence[Pack]) -> Said:
    kind = "MPSReady"
    states = [s for s in _states(packs) if s.packing is not None]
    faulted = [s.gpu for s in states if s.gpu.mps == "Faulted"]
    if faulted:
        return Said(kind, "False", "MPSFaulted", faulted[0].mps_message)
    unavailable = [s.gpu for s in states if s.gpu.mps == "Unavailable"]
    if unavailable:
        message = unavailable[0].mps_message.rstrip(".")
        mps = service.spec.gpu.mps
        if mps is not None and mps.fallback == "TimeSlicing":
            text = f"{message}; replicas take turns, as spec.gpu.mps.fallback allows"
            return Said(kind, "False", "TimeSlicing", text)
        return Said(kind, "False", "MPSUnavailable", f"{message}; one replica runs on each GPU")
    if not states:
        return Said(kind, "Unknown", "Starting", "no pack has opened its device yet")
    if any(s.gpu.mps == "Running" for s in states):
        notes = [s.gpu.mps_message for s in states if s.gpu.mps_message]
        text = "the packs' MPS daemons answer" + (f"; {notes[0]}" if notes else "")
        return Said(kind, "True", "Running", text)
    return Said(kind, "True", "NotNeeded", f"a {states[0].gpu.kind} device is shared without MPS")


def _metrics_available(packs: Sequence[Pack], calibration: Calibration) -> Said:
    kind = "MetricsAvailable"
    silent = [p.silence for p in packs if p.silence]
    if silent:
        return Said(kind, "False", silent[0].reason, silent[0].message)
    if not any(s.counters for s in _states(packs)):
        return Said(kind, "Unknown", "MetricsMissing", "no pack has sent a sample yet")
    window = calibration.window
    if window is not None and window.reason in ("CounterReset", "MetricsMissing"):
        return Said(kind, "False", window.reason, WINDOW_REASONS[window.reason])
    if any(s.counters and s.counters.energy_millijoules is None for s in _states(packs)):
        return Said(
            kind,
            "True",
            "PowerUnknown",
            "throughput and latency are measured; nothing here measures power, so decisions use "
            "throughput alone",
        )
    if any(s.gpu.energy_source == "Integrated" for s in _states(packs)):
        return Said(
            kind,
            "True",
            "PowerIntegrated",
            "throughput and latency are measured; the GPU has no energy counter, so its power "
            "readings are added up instead",
        )
    return Said(kind, "True", "Measured", "throughput, latency and power are measured")


def _calibrated(service: SLMService, packs: Sequence[Pack], calibration: Calibration) -> Said:
    kind = "Calibrated"
    step, window = calibration.step, calibration.window
    if not searches(service):
        count = service.spec.replicas_per_pack
        message = f"spec.replicasPerPack fixes {count} replicas, so nothing is searched"
        return Said(kind, "True", "FixedReplicas", message)
    if isinstance(step, Settle):
        return Said(kind, "True", "KneeFound", step.choice.sentence)
    if service.autoscaling.calibration.when == "Never" and calibration.space is not None:
        least = service.autoscaling.min_replicas_per_pack
        text = (
            f"calibration.when is Never and no point is known, so minReplicasPerPack runs: {least}"
        )
        return Said(kind, "False", "NothingMeasured", text)
    before = service.status.condition(kind)
    if step is None and calibration.points and before is not None:
        return Said(kind, before.status, before.reason, before.message)
    if step is None:
        trouble = next((t for p in packs if (t := pack_trouble(p))), None)
        reason = trouble.reason if trouble else "Starting"
        return Said(kind, "False", reason, "the search starts when a pack answers")
    if calibration.waiting:
        seqs = step.probe.replicas * step.probe.max_num_seqs
        text = (
            f"calibration.when is Live: {step.probe} is measured once more than {seqs:,} of the "
            "users' requests are in flight; meanwhile all replicas serve"
        )
        return Said(kind, "False", "WaitingForLoad", text)
    if window is not None and window.reason in WINDOW_REASONS:
        failures = [s.load.last_failure for s in _states(packs) if s.load.last_failure]
        said = f"; the load's last failure: {failures[0]}" if failures else ""
        return Said(kind, "False", window.reason, WINDOW_REASONS[window.reason] + said)
    return Said(kind, "False", step.phase, f"measuring {step.probe}: {step.why}")


def _scaling_active(service: SLMService, wanted: Wanted) -> Said:
    kind = "ScalingActive"
    if service.follows_demand:
        return _following(service, wanted)
    if service.autoscaling.mode == "Recommend":
        message = "mode Recommend: the knee is measured on one pack and reported; the count stays"
        return Said(kind, "False", "RecommendOnly", message)
    if not searches(service):
        return Said(kind, "False", "FixedReplicas", "spec.replicasPerPack fixes the count")
    return Said(kind, "True", "Auto", "the operator sets the replica count of each pack")


def _following(service: SLMService, wanted: Wanted) -> Said:
    """What demand does to the packs, without the figures: these change every few seconds."""
    kind = "ScalingActive"
    stay = f"{packs_text(wanted.packs)} stay{'s' if wanted.packs == 1 else ''}"
    bounds = service.autoscaling
    fewest, most = bounds.fewest_packs, bounds.max_packs
    if wanted.no_zero is not None:
        return Said(kind, "False", wanted.no_zero.reason, f"{wanted.no_zero.message}: {stay}")
    if wanted.packs == 0:
        text = f"no request came for {bounds.scale_down_stabilization}; the next one starts a pack"
        return Said(kind, "True", "ScaledToZero", text)
    if wanted.zero == "RequestsHeld":
        return Said(kind, "True", "FollowingDemand", "requests wait at the activator: one starts")
    if wanted.demand is None:
        text = f"what a pack serves is not measured yet, so demand tells no number: {stay}"
        return Said(kind, "False", "DemandUnknown", text)
    rule = wanted.demand.rule
    if rule == "HeldStale":
        cause = (
            f"{', '.join(wanted.silent)} did not answer, so a part of the demand is missing"
            if wanted.silent
            else "it takes two samples, and a request that has completed, to know the demand"
        )
        return Said(kind, "False", "HeldStale", f"{cause}: {stay}")
    if rule == "AtMaxPacks":
        text = f"demand takes more than the {most} of spec.autoscaling.maxPacks: raise it"
        return Said(kind, "True", "AtMaxPacks", text)
    if rule == "Stabilizing":
        text = (
            f"fewer would do now; {stay} until that has been so for "
            f"{bounds.scale_down_stabilization}"
        )
        return Said(kind, "True", "Stabilizing", text)
    text = f"the demand takes {packs_text(wanted.packs)}, of {fewest} to {most}"
    surge = max((n for _, n in wanted.kept.memory.surges), default=0)
    if surge >= wanted.packs > fewest:
        text = (
            f"a surge within the last hour, faster than packs start or there from the first look, "
            f"takes {surge}: {stay}"
        )
    return Said(kind, "True", "FollowingDemand", text)


def started(states: Iterable[PackState]) -> int:
    """Replicas that run, over all packs."""
    return sum(r.phase is not ReplicaPhase.FAILED for s in states for r in s.replicas)


def ready_replicas(states: Iterable[PackState]) -> int:
    return sum(r.phase is ReplicaPhase.READY for s in states for r in s.replicas)


def _states(packs: Sequence[Pack]) -> list[PackState]:
    return [p.agent for p in packs if p.agent is not None]


def _dated(said: Said, before: Condition | None, generation: int, now: str) -> Condition:
    same = before is not None and before.status == said.status
    return Condition(
        type=said.type,
        status=said.status,
        reason=said.reason,
        message=said.message,
        last_transition_time=before.last_transition_time if before and same else now,
        observed_generation=generation,
    )
