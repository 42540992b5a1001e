"""One pass: from a snapshot to pods, plans, status and events."""

from __future__ import annotations

from dataclasses import dataclass, replace

from slm_operator.api.models import SLMService
from slm_operator.api.status import (
    HISTORY_KEPT,
    CalibrationStatus,
    HistoryEntry,
    LayoutStatus,
    MeasuringStatus,
    SLMServiceStatus,
)
from slm_operator.decide import explanation
from slm_operator.decide import points as shown
from slm_operator.decide.calibrate import (
    Calibration,
    calibrate,
    searches,
)
from slm_operator.decide.canary import Judgement
from slm_operator.decide.changing import moving, progressing
from slm_operator.decide.conditions import conditions, ready_replicas, started
from slm_operator.decide.demand import SAMPLE_SECONDS, Wanted, wanted_packs
from slm_operator.decide.explanation import Explanation
from slm_operator.decide.exploring import exploring_pack, own_load
from slm_operator.decide.failures import to_status
from slm_operator.decide.fingerprint import profile_key
from slm_operator.decide.plans import plans, walking
from slm_operator.decide.pods import PodChanges, pod_changes
from slm_operator.decide.profile_record import Profile, stripped
from slm_operator.decide.promotion import carried, carried_back, judged
from slm_operator.decide.rollout import Rollout, follow
from slm_operator.decide.rollout_step import Step, step
from slm_operator.decide.snapshot import Memory, Pack, Snapshot, Trouble
from slm_operator.decide.traffic import workload_status
from slm_operator.decide.zero import ready_since, through_activator
from slm_operator.pareto.points import Probe
from slm_operator.pareto.search import Measure, Settle, running_layout
from slm_operator.pareto.window import WindowRules
from slm_operator.render.children import selector
from slm_worker.wire import Plan

MEASURING_POLL_SECONDS = 1.0
STARTING_POLL_SECONDS = 2.0
STEADY_POLL_SECONDS = 15.0


@dataclass(frozen=True)
class Event:
    """Something to tell on the object's event stream."""

    type: str
    """Normal or Warning."""
    reason: str
    message: str
    decision: str = ""
    """Id of the decision in the history that it tells; empty when it tells none."""


@dataclass(frozen=True)
class Decision:
    service: SLMService
    """With the template that packs are made of, but for one that is tried with the spec's."""
    pods: PodChanges
    plans: tuple[tuple[Pack, Plan], ...]
    """Plans that differ from what the pack already follows."""
    status: SLMServiceStatus
    events: tuple[Event, ...]
    memory: Memory
    poll_seconds: float
    """How soon to look again when nothing wakes the controller."""
    through_activator: bool = False
    """Whether clients of the Service in front are to reach the activator."""
    profile: Profile | None = None
    """What a search that ended in this pass leaves to other services."""


def decide(
    snapshot: Snapshot,
    rules: WindowRules,
    template_hash: str,
    refused: Trouble | None = None,
    demand_period_seconds: float = SAMPLE_SECONDS,
) -> Decision:
    """What to do about ``snapshot``. ``refused``: what was said no to in the last pass.
    ``demand_period_seconds``: between two samples of the demand."""
    rollout = follow(snapshot, template_hash)
    asked, snapshot = snapshot, replace(snapshot, service=rollout.service)
    service = snapshot.service
    # What runs another template says nothing of the one that is measured.
    measured = rollout.measured(snapshot)
    explorer = exploring_pack(measured)
    known = shown.read(service.status.frontier)
    calibration = calibrate(measured, explorer, known, rules)
    judgement = judged(asked, rollout, calibration, rules)
    exploring = explorer if isinstance(calibration.step, Measure) else None
    rolled = step(rollout, asked, judgement, exploring)
    wanted = wanted_packs(snapshot, calibration, demand_period_seconds)
    changes = plans(rollout, explorer, calibration, judgement)
    same_template = rolled.status.updated_packs == len(rollout.alive)
    said = progressing(rolled.said, changes, calibration, snapshot, same_template)
    rolled = replace(rolled, said=said)
    explained = (*_explanations(calibration, snapshot), *_packs_changed(service, wanted))
    entries = tuple(explanation.entry(e, snapshot.now) for e in explained)
    status = _status(
        snapshot, calibration, wanted, rollout, rolled, changes.behind, entries, refused, rules
    )
    if judgement.passed and rolled.status.phase == "Progressing":
        status = carried(status, asked, rollout, judgement)
    if rolled.gone_back:
        status = carried_back(status, asked, rollout, calibration)
    since = ready_since(snapshot)
    led = through_activator(snapshot, wanted.packs, since)
    told = [
        Event("Normal", e.reason, e.telling, explanation.decision_id(service.uid, kept))
        for e, kept in zip(explained, entries, strict=True)
    ]
    if rolled.told is not None:
        told.append(Event("Normal", *rolled.told))
    return Decision(
        service=service,
        pods=pod_changes(snapshot.packs, wanted.packs, rollout.templates, exploring, snapshot.now),
        plans=changes.sent,
        status=status,
        events=(*told, *_warnings(service.status, status)),
        memory=replace(
            calibration.memory,
            demand=wanted.kept,
            canary=judgement.kept,
            moving=moving(changes, exploring, snapshot),
            progressed=rolled.progressed,
            ready_since_seconds=since,
            through_activator=led,
        ),
        poll_seconds=_poll_seconds(
            calibration, wanted, status, judgement, bool(changes.sent) or walking(rollout)
        ),
        profile=_profile(snapshot, explorer, calibration),
        through_activator=led,
    )


def _profile(snapshot: Snapshot, explorer: Pack | None, calibration: Calibration) -> Profile | None:
    """Of a search that this pass ended; what confirmed a profile adds nothing to it."""
    service, step = snapshot.service, calibration.step
    used = calibration.found is not None and calibration.found.reason == "ProfileUsed"
    own = service.autoscaling.calibration.when == "OnStart"
    if not isinstance(step, Settle) or calibration.measured is None or used or not own:
        return None
    if explorer is None or explorer.agent is None:
        return None
    load, chosen = own_load(service, calibration.traffic), _layout(running_layout(step.choice))
    if chosen is None:
        return None
    return Profile(
        key=profile_key(service, snapshot.worker_image, explorer.agent, load),
        written_at=snapshot.now,
        written_by=service.name,
        model=service.spec.model.uri,
        gpu=explorer.agent.gpu.name,
        prompt_tokens=load.prompt_tokens,
        output_tokens=load.output_tokens,
        chosen=chosen,
        points=stripped(shown.frontier(calibration.counting, calibration.space, step)),
    )


def _explanations(calibration: Calibration, snapshot: Snapshot) -> tuple[Explanation, ...]:
    """What this pass decided anew."""
    service, step, measured = snapshot.service, calibration.step, calibration.measured
    found = [
        explanation.layout_failed(u, step)
        for u in calibration.memory.unstartable
        if u not in snapshot.memory.unstartable
    ]
    before = service.status.calibration
    done = before is not None and before.phase == "Done"
    traffic, exploring = calibration.traffic, calibration.exploring
    if traffic.shift is not None:
        reopened = str(step.probe) if isinstance(step, Measure) else ""
        found.append(explanation.shifted(service, traffic.shift, calibration.incumbent, reopened))
    elif done and measured is None and isinstance(step, Measure):
        found.append(explanation.reopened(service, calibration.fingerprint, step))
    if calibration.found is not None:
        found.append(explanation.profile_found(service, calibration.found, step))
    if exploring is not None and exploring.overrun and calibration.memory.overrun:
        found.append(explanation.abandoned(calibration.memory.overrun.replicas, exploring))
    points, space = calibration.counting, calibration.space
    if measured is not None and isinstance(step, Measure) and space is not None:
        found.append(explanation.probed(service, measured, points, step, space))
    if isinstance(step, Settle) and _is_news(service, step):
        found.append(explanation.knee(service, measured, step))
    return tuple(e for e in found if not explanation.is_told(e, service.status.history))


def _packs_changed(service: SLMService, wanted: Wanted) -> tuple[Explanation, ...]:
    """Told where demand decides; who sets spec.packs knows. The first packs replace nothing."""
    before = service.status.desired_packs
    if before is None:
        before = service.status.packs or wanted.packs
    if not service.follows_demand or before == wanted.packs:
        return ()
    return (explanation.packs_changed(service, before, wanted),)


def _status(
    snapshot: Snapshot,
    calibration: Calibration,
    wanted: Wanted,
    rollout: Rollout,
    rolled: Step,
    behind: tuple[Pack, ...],
    entries: tuple[HistoryEntry, ...],
    refused: Trouble | None,
    rules: WindowRules,
) -> SLMServiceStatus:
    service, before = snapshot.service, snapshot.service.status
    packs = [p for p in snapshot.packs if not p.terminating]
    states = [p.agent for p in packs if p.agent is not None]
    found = _found(service, calibration)
    return SLMServiceStatus(
        observed_generation=service.generation,
        packs=len(packs),
        desired_packs=wanted.packs,
        ready_packs=sum(p.ready for p in packs),
        activator_port=_activator_port(snapshot),
        selector=",".join(f"{k}={v}" for k, v in sorted(selector(service).items())),
        replicas=started(states),
        ready_replicas=ready_replicas(states),
        recommended_replicas_per_pack=found.recommended_replicas_per_pack,
        operating_point=found.operating_point,
        frontier=found.frontier,
        calibration=CalibrationStatus(
            fingerprint=calibration.fingerprint,
            phase=_phase(calibration, service),
            measuring=_measuring(service, calibration, snapshot.now, rules),
            chosen=_chosen_layout(calibration),
            expected=_expected_layout(calibration, before),
            searching_since=_searching_since(calibration, snapshot),
            failed_layouts=to_status(calibration.memory.unstartable),
            workload=workload_status(calibration.traffic.workload),
            points_since=calibration.traffic.since,
            too_few_replicas=calibration.traffic.too_few_replicas or None,
        ),
        power=snapshot.power,
        rollout=rolled.status,
        conditions=conditions(
            service,
            [p for p in packs if p not in rollout.coming],
            calibration,
            wanted,
            refused,
            snapshot.power,
            rolled.said,
            behind,
            snapshot.now,
        ),
        history=(*before.history, *entries)[-HISTORY_KEPT:],
    )


def _activator_port(snapshot: Snapshot) -> int | None:
    """Stays the service's own for its life: what points to it can outlive the wish for it."""
    activation = snapshot.activation
    return activation.port if activation is not None else snapshot.service.status.activator_port


def _found(service: SLMService, calibration: Calibration) -> SLMServiceStatus:
    """The part of the status that the points decide. While no pack answers it stays as it was."""
    step = calibration.step
    if step is None and searches(service) and calibration.points:
        return service.status
    chosen = step.choice.chosen if isinstance(step, Settle) else None
    auto = service.autoscaling.mode == "Auto"
    return SLMServiceStatus(
        recommended_replicas_per_pack=chosen.probe.replicas if chosen else None,
        operating_point=shown.operating_point(chosen) if chosen and auto else None,
        frontier=shown.frontier(calibration.points, calibration.space, step, calibration.spoiled),
    )


def _chosen_layout(calibration: Calibration) -> LayoutStatus | None:
    step, probe = calibration.step, calibration.incumbent
    if isinstance(step, Settle):
        probe = running_layout(step.choice)
    return _layout(probe)


def _expected_layout(calibration: Calibration, before: SLMServiceStatus) -> LayoutStatus | None:
    """While no pack answers it stays as it was."""
    if calibration.space is not None:
        return _layout(calibration.space.expected)
    same = before.calibration and before.calibration.fingerprint == calibration.fingerprint
    return before.calibration.expected if before.calibration and same else None


def _layout(probe: Probe | None) -> LayoutStatus | None:
    if probe is None:
        return None
    return LayoutStatus(replicas_per_pack=probe.replicas, max_num_seqs=probe.max_num_seqs)


def _searching_since(calibration: Calibration, snapshot: Snapshot) -> str | None:
    began, before = calibration.clock.began, snapshot.service.status.calibration
    if isinstance(calibration.step, Measure):
        return began or snapshot.now
    if calibration.step is None and before and _phase(calibration, snapshot.service) == "Done":
        return before.searching_since
    return began if calibration.cut_short else None


def _phase(calibration: Calibration, service: SLMService) -> str:
    step = calibration.step
    if isinstance(step, Settle):
        return "Done"
    if not searches(service):
        return "Fixed"
    if step is not None:
        return "Waiting" if calibration.waiting else step.phase
    if service.autoscaling.calibration.when == "Never" and calibration.space is not None:
        return "Off"
    # A pack that is silent for a moment does not undo what was found.
    before = service.status.calibration
    if before is not None and before.fingerprint == calibration.fingerprint:
        return before.phase
    return "Pending"


def _is_news(service: SLMService, step: Settle) -> bool:
    """Whether the choice differs from the one that the status holds."""
    before = service.status.calibration
    if before is None or before.phase != "Done":
        return True
    chosen = step.choice.chosen.probe
    return not any(
        p.chosen and (p.replicas_per_pack, p.max_num_seqs) == (chosen.replicas, chosen.max_num_seqs)
        for p in service.status.frontier
    )


def _measuring(
    service: SLMService, calibration: Calibration, now: str, rules: WindowRules
) -> MeasuringStatus | None:
    step = calibration.step
    if not isinstance(step, Measure) or calibration.waiting:
        return None
    before = service.status.calibration.measuring if service.status.calibration else None
    probe = step.probe
    same = before is not None and probe == Probe(
        before.layout_replicas, before.replicas_per_pack, before.max_num_seqs
    )
    return MeasuringStatus(
        layout_replicas=probe.layout_replicas,
        replicas_per_pack=probe.replicas,
        max_num_seqs=probe.max_num_seqs,
        since=before.since if before and same else now,
        window_seconds=round(rules.warmup_seconds + rules.min_seconds),
    )


def _warnings(before: SLMServiceStatus, after: SLMServiceStatus) -> tuple[Event, ...]:
    """One warning when a condition becomes false, or is false for another reason."""
    found = []
    for condition in after.conditions:
        old = before.condition(condition.type)
        news = old is None or (old.status, old.reason) != (condition.status, condition.reason)
        expected = condition.type in ("Calibrated", "ScalingActive") or condition.reason in (
            "Starting",
        )
        if condition.status == "False" and news and not expected:
            found.append(Event("Warning", condition.reason, condition.message))
    # One cause shows in several conditions; it is told once.
    return tuple({e.reason: e for e in found}.values())


def _poll_seconds(
    calibration: Calibration,
    wanted: Wanted,
    status: SLMServiceStatus,
    judgement: Judgement,
    changes: bool,
) -> float:
    """``changes``: whether a pack is on its way to another plan."""
    if isinstance(calibration.step, Measure) and not calibration.waiting:
        return MEASURING_POLL_SECONDS
    if judgement.measures or judgement.passed or judgement.failed:
        return MEASURING_POLL_SECONDS
    rollout = status.rollout
    follows = rollout is not None and rollout.phase in ("Canary", "Progressing")
    if changes or (follows and wanted.packs):
        return STARTING_POLL_SECONDS
    if rollout is not None and rollout.phase == "RolledBack" and rollout.updated_packs:
        return STARTING_POLL_SECONDS
    ready = status.condition("Ready")
    if ready is None or ready.status != "True" or status.ready_packs < wanted.packs:
        return STARTING_POLL_SECONDS
    due = wanted.sample_in_seconds
    return STEADY_POLL_SECONDS if due is None else max(due, MEASURING_POLL_SECONDS)
