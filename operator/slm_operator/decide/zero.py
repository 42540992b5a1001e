"""Whether a service shall have no pack: where spec.autoscaling.minPacks is 0."""

from __future__ import annotations

from slm_operator.api.models import SLMService
from slm_operator.decide.calibrate import Calibration, searches
from slm_operator.decide.snapshot import Activation, DemandKept, Pack, Snapshot, Trouble
from slm_operator.pareto.idle import Holding, Look, Zero, decide_zero, seen
from slm_operator.pareto.search import Measure

LINGER_SECONDS = 10.0
"""A pack that has become ready is not at once among the addresses that every node knows; the
activator passes on until it is."""
NO_ACTIVATOR = Trouble(
    "ActivatorMissing",
    "this operator has no activator, which would hold requests while no pack runs: start "
    "slm-activator and give the operator its --activator-url, or set spec.autoscaling.minPacks "
    "to 1",
)


def holding_trouble(service: SLMService, activation: Activation | None) -> Trouble | None:
    """Why a service that shall scale to zero cannot."""
    if not service.scales_to_zero:
        return None
    return NO_ACTIVATOR if activation is None else activation.trouble


def holds(activation: Activation | None) -> Holding:
    if activation is None:
        return Holding(now=False, lastingly=False)
    return Holding(
        held=activation.held,
        now=activation.trouble is None and activation.port is not None,
        lastingly=activation.lastingly,
    )


def ready_since(snapshot: Snapshot) -> float | None:
    """When packs began to serve, of which there was always one since."""
    if not any(p.ready and not p.terminating for p in snapshot.packs):
        return None
    before = snapshot.memory.ready_since_seconds
    return snapshot.seconds if before is None else before


def through_activator(snapshot: Snapshot, wanted: int, since_seconds: float | None) -> bool:
    """Whether clients of the Service in front are led to the activator: before the last pack ends,
    until one is ready, and a little longer. Also where spec.autoscaling.minPacks is 0 no more, but
    then only until there is a pack. ``since_seconds``: when packs began to serve."""
    if not holds(snapshot.activation).lastingly:
        return False
    if not (snapshot.service.scales_to_zero or _was_led(snapshot)):
        return False
    if wanted == 0 or since_seconds is None:
        return True
    return snapshot.seconds - since_seconds < LINGER_SECONDS


def _was_led(snapshot: Snapshot) -> bool:
    before = snapshot.memory.through_activator
    return snapshot.service.status.ready_packs == 0 if before is None else before


def zero(
    snapshot: Snapshot,
    calibration: Calibration,
    kept: DemandKept,
    serving: list[Pack],
    counted: bool,
    measured: bool,
) -> tuple[Zero, DemandKept]:
    """``serving``: packs that do not end. ``counted``: what arrived at them, up to now, is in
    ``kept``. ``measured``: what one serves is known."""
    service = snapshot.service
    if not service.scales_to_zero:
        return Zero(None), kept
    holding = holds(snapshot.activation)
    look = None
    # A pack that is still loading the model, or fails at it, has had no chance to be idle.
    if counted and any(p.ready for p in serving):
        routers = (p.agent.router.in_progress for p in serving if p.agent is not None)
        tally, in_flight = kept.tally, sum(routers) + holding.held
        look = Look(snapshot.seconds, tally.arrived, in_flight, tally.restarts)
    idle = seen(kept.idle, look)
    found = decide_zero(
        service.wanted_packs,
        idle,
        look,
        holding,
        service.autoscaling.scale_down_stabilization_seconds,
        _may_end(service, calibration, measured),
    )
    return found, DemandKept(kept.tally, kept.sampled_at_seconds, kept.memory, idle)


def _may_end(service: SLMService, calibration: Calibration, measured: bool) -> bool:
    """A search that has a load of its own is finished first, and so is the trial of a changed
    template: at zero neither would ever be."""
    rollout = service.status.rollout
    if rollout is not None and rollout.phase == "Canary" and rollout.updated_packs:
        return False
    step = calibration.step
    if isinstance(step, Measure) and not calibration.waiting:
        return False
    own_load = service.autoscaling.calibration.when == "OnStart" and searches(service)
    return measured or not own_load
