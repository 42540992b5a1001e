"""What each pack shall run, and which of them may restart its replicas for it now."""

from __future__ import annotations

from dataclasses import dataclass

from slm_operator.api.models import SLMService
from slm_operator.decide.calibrate import Calibration, plan, resting_probe, searches
from slm_operator.decide.canary import Judgement
from slm_operator.decide.rollout import Rollout
from slm_operator.decide.snapshot import Pack
from slm_operator.pareto.points import Probe
from slm_operator.pareto.search import Measure, Settle, running_layout
from slm_worker.wire import Plan


@dataclass(frozen=True)
class Plans:
    sent: tuple[tuple[Pack, Plan], ...]
    """Those that differ from what the pack already follows."""
    waiting: tuple[Pack, ...] = ()
    """Serve in another layout until it is their turn."""
    changing: tuple[Pack, ...] = ()
    """For which they wait."""
    behind: tuple[Pack, ...] = ()
    """Served in another layout until this pass: those that wait, and the one that does no more."""
    restarted: tuple[Pack, ...] = ()
    """Served until now, and start their replicas anew."""


def plans(
    rollout: Rollout, explorer: Pack | None, calibration: Calibration, judgement: Judgement
) -> Plans:
    """What to tell the packs.

    A layout restarts all replicas of a pack, which may serve nothing meanwhile; so of packs that
    serve, one at a time is between two layouts. The one that explores waits for nobody, or a sick
    one would end the search, and the others wait for it.
    """
    if not isinstance(calibration.step, Measure):
        explorer = None
    sent: list[tuple[Pack, Plan]] = []
    waiting: list[tuple[Pack, Plan]] = []
    for pack, wanted in _wanted(rollout, explorer, calibration):
        waits = pack is not explorer and _restarts(pack, wanted)
        (waiting if waits else sent).append((pack, wanted))
    behind = tuple(pack for pack, _ in waiting)
    changing = [pack for pack, wanted in sent if _on_its_way(pack, wanted)]
    changing += [pack for pack in rollout.served if _is_not_heard(pack)]
    if waiting and not changing:
        # First one that does not serve with all that it has.
        first = min(waiting, key=lambda one: (_is_settled(one[0]), one[0].ordinal))
        waiting.remove(first)
        sent.append(first)
        changing.append(first[0])
    changed = ((p, wanted) for p, wanted in sent if p.agent and wanted != p.agent.plan)
    return Plans(
        sent=(*changed, *_aside(rollout, judgement)),
        waiting=tuple(pack for pack, _ in waiting),
        changing=tuple(changing),
        behind=behind,
        restarted=tuple(pack for pack, wanted in sent if _restarts(pack, wanted)),
    )


def walking(rollout: Rollout) -> bool:
    """Whether a pack is on its way to what it shall run."""
    return any(p.agent is not None and p.agent.plan and not _is_settled(p) for p in rollout.served)


def _wanted(
    rollout: Rollout, explorer: Pack | None, calibration: Calibration
) -> list[tuple[Pack, Plan]]:
    """Of each pack that answers."""
    found = []
    for pack in rollout.served:
        state = pack.agent
        if state is None or state.packing is None:
            continue
        probe, load = target(rollout.service, calibration, pack), None
        exploring = calibration.exploring
        if pack is explorer and exploring:
            probe, load = exploring.probe, exploring.load
        fitting = _fitting(probe, state.packing.max_replicas, rollout.service)
        if fitting is not None:
            found.append((pack, plan(fitting, load, state.plan)))
    return found


def _fitting(probe: Probe, most: int, service: SLMService) -> Probe | None:
    """As much of ``probe`` as fits a GPU that may be smaller than the one that was measured; None
    where that is less than the spec allows."""
    if probe.layout_replicas <= most:
        return probe
    if most < resting_probe(service).replicas:
        return None
    return Probe(most, min(probe.replicas, most), probe.max_num_seqs)


def _restarts(pack: Pack, wanted: Plan) -> bool:
    """Whether the pack serves, and its replicas would have to be started anew."""
    current = pack.agent.plan if pack.agent is not None else None
    return pack.ready and current is not None and current.layout != wanted.layout


def _on_its_way(pack: Pack, wanted: Plan) -> bool:
    return _restarts(pack, wanted) or not _is_settled(pack)


def _is_not_heard(pack: Pack) -> bool:
    """Whether the pack runs and may be on its way: nobody knows."""
    lost = pack.node is not None or pack.container is not None
    return pack.silence is not None and not (pack.ready or lost)


def _is_settled(pack: Pack) -> bool:
    return pack.agent is not None and pack.agent.settled


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


def target(service: SLMService, calibration: Calibration, pack: Pack | None = None) -> Probe:
    """What ``pack`` runs when it is not exploring; None: one that comes."""
    if service.autoscaling.mode != "Auto":
        return resting_probe(service)
    if isinstance(calibration.step, Settle):
        return running_layout(calibration.step.choice)
    if not searches(service):
        return resting_probe(service)
    incumbent = calibration.incumbent
    if incumbent and _allows(service, incumbent.layout_replicas, incumbent.max_num_seqs):
        return incumbent
    if kept := _kept(service, pack):
        return kept
    if calibration.exploring:
        return calibration.exploring.elsewhere or resting_probe(service)
    return resting_probe(service)


def _kept(service: SLMService, pack: Pack | None) -> Probe | None:
    """The layout that a pack serves in, where the spec allows it: while nothing is chosen, as after
    a change of what is measured, it is the best guess, and another would restart every replica."""
    state = pack.agent if pack is not None else None
    if pack is None or state is None or state.plan is None or state.packing is None:
        return None
    if not pack.ready and state.problem is not None:
        return None
    layout = state.plan.layout
    if layout.replicas > state.packing.max_replicas:
        return None
    if not _allows(service, layout.replicas, layout.max_num_seqs):
        return None
    if service.autoscaling.calibration.when == "Never":
        return None
    return Probe(layout.replicas, layout.replicas, layout.max_num_seqs)


def _allows(service: SLMService, replicas: int, max_num_seqs: int) -> bool:
    """Whether a layout is within what the spec says by now."""
    autoscaling = service.autoscaling
    if not autoscaling.min_replicas_per_pack <= replicas <= autoscaling.max_replicas_per_pack:
        return False
    return service.spec.engine.max_num_seqs in (None, max_num_seqs)
