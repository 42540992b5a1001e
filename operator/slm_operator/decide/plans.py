"""What each pack shall run."""

from __future__ import annotations

from slm_operator.api.models import SLMService
from slm_operator.decide.calibrate import Calibration, plan, resting_probe, searches
from slm_operator.decide.canary import Judgement
from slm_operator.decide.rollout import Rollout
from slm_operator.decide.snapshot import Pack
from slm_operator.pareto.points import Probe
from slm_operator.pareto.search import Measure, Settle, running_layout
from slm_worker.wire import Plan


def plans(
    rollout: Rollout, explorer: Pack | None, calibration: Calibration, judgement: Judgement
) -> tuple[tuple[Pack, Plan], ...]:
    """Those that differ from what the pack already follows."""
    found, service = [], rollout.service
    for pack in rollout.served:
        state = pack.agent
        if state is None:
            continue
        probe, load = target(service, calibration), None
        exploring = calibration.exploring
        if pack is explorer and exploring and isinstance(calibration.step, Measure):
            probe, load = exploring.probe, exploring.load
        if state.packing is None or probe.layout_replicas > state.packing.max_replicas:
            continue
        wanted = plan(probe, load, state.plan)
        if wanted != state.plan:
            found.append((pack, wanted))
    return (*found, *_aside(rollout, judgement))


def _aside(rollout: Rollout, judgement: Judgement) -> tuple[tuple[Pack, Plan], ...]:
    """Of the canary; and of packs that are to be replaced: they serve on as they are, but bear no
    load of the operator's own."""
    found = []
    if rollout.canary is not None and judgement.plan is not None:
        found.append((rollout.canary, judgement.plan))
    for pack in rollout.alive:
        current = pack.agent.plan if pack.agent is not None else None
        if current is None or current.load is None:
            continue
        if pack in rollout.served or (rollout.tries and pack is rollout.canary):
            continue
        layout = current.layout
        probe = Probe(layout.replicas, layout.replicas, layout.max_num_seqs)
        found.append((pack, plan(probe, None, current)))
    return tuple(found)


def target(service: SLMService, calibration: Calibration) -> Probe:
    """What a pack runs when it is not exploring."""
    if service.autoscaling.mode == "Auto" and isinstance(calibration.step, Settle):
        return running_layout(calibration.step.choice)
    if service.autoscaling.mode == "Auto" and calibration.incumbent and searches(service):
        return calibration.incumbent
    if service.autoscaling.mode == "Auto" and calibration.exploring:
        return calibration.exploring.elsewhere or resting_probe(service)
    return resting_probe(service)
