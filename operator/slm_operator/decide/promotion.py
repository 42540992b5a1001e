"""A canary beside the packs as they were: what it is held to, and what it leaves when it passes, or
when those that follow it fail."""

from __future__ import annotations

from slm_operator.api.models import SLMService
from slm_operator.api.status import CalibrationStatus, LayoutStatus, SLMServiceStatus
from slm_operator.decide import points as shown
from slm_operator.decide.calibrate import Calibration, searches
from slm_operator.decide.canary import Judgement, Yardstick, judge
from slm_operator.decide.exploring import own_load
from slm_operator.decide.fingerprint import fingerprint
from slm_operator.decide.plans import target
from slm_operator.decide.rollout import Rollout
from slm_operator.decide.snapshot import Snapshot
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.window import WindowRules


def judged(
    snapshot: Snapshot, rollout: Rollout, calibration: Calibration, rules: WindowRules
) -> Judgement:
    """What the canary, if there is one, is worth. ``snapshot``: with the spec as it is;
    ``calibration``: of the packs as they were."""
    if not rollout.tries:
        return Judgement()
    former, service = rollout.service, snapshot.service
    others = (p for p in rollout.served if p.uid != calibration.memory.explorer)
    probe = target(former, calibration, next(others, None))
    own = service.autoscaling.calibration.when == "OnStart"
    held_to = Yardstick(
        probe,
        next((p for p in calibration.counting if p.probe == probe), None),
        own_load(former, calibration.traffic) if own else None,
        same_model=former.spec.model.uri == service.spec.model.uri,
    )
    return judge(service, rollout.canary, held_to, snapshot, rules)


def carried(
    status: SLMServiceStatus, snapshot: Snapshot, rollout: Rollout, judgement: Judgement
) -> SLMServiceStatus:
    """``status`` for the template that passed: other packs start with the layout that it ran, at
    the point that was measured. ``snapshot``: with the spec as it is."""
    if rollout.canary is None or judgement.probe is None:
        return status
    mark = fingerprint(snapshot.service, snapshot.worker_image, rollout.canary.agent)
    return _carried(status, snapshot.service, mark, judgement.probe, judgement.point)


def carried_back(
    status: SLMServiceStatus, snapshot: Snapshot, rollout: Rollout, calibration: Calibration
) -> SLMServiceStatus:
    """``status`` for the template before, of a rollout that is gone back from: its packs keep their
    layout, and those that come start with it. What they measured is in the learned profile."""
    former = rollout.former
    if former is None:
        return status
    others = [p.agent for p in rollout.alive if p not in rollout.served and p.agent is not None]
    mark = fingerprint(former, snapshot.worker_image, next(iter(others), None))
    probe = target(rollout.service, calibration)
    layout = next((s.plan.layout for s in others if s.plan is not None), None)
    if layout is not None:
        probe = Probe(layout.replicas, layout.replicas, layout.max_num_seqs)
    return _carried(status, former, mark, probe, None)


def _carried(
    status: SLMServiceStatus,
    service: SLMService,
    mark: str,
    probe: Probe,
    point: OperatingPoint | None,
) -> SLMServiceStatus:
    """``status`` under the fingerprint ``mark``, begun with one layout instead of the fewest
    replicas. Under the same one what is known stays known."""
    if status.calibration is not None and status.calibration.fingerprint == mark:
        return status
    layout = LayoutStatus(replicas_per_pack=probe.replicas, max_num_seqs=probe.max_num_seqs)
    measured = () if point is None else (point,)
    return status.model_copy(
        update={
            "calibration": CalibrationStatus(
                fingerprint=mark,
                phase="Pending",
                chosen=layout if searches(service) else None,
            ),
            "frontier": shown.frontier(measured, None, None),
            "operating_point": None,
            "recommended_replicas_per_pack": None,
        }
    )
