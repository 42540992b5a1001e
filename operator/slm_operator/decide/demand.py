"""How many packs there shall be: spec.packs, or what demand takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from slm_operator.api.models import SLMService
from slm_operator.decide.calibrate import Calibration
from slm_operator.decide.snapshot import DemandKept, Pack, Snapshot, Trouble
from slm_operator.decide.tally import counted, waiting
from slm_operator.decide.zero import holding_trouble, zero
from slm_operator.pareto.demand import (
    Demand,
    DemandMemory,
    DemandRules,
    DemandSample,
    PackCost,
    decide_packs,
)
from slm_operator.pareto.idle import Idle, ZeroRule
from slm_operator.pareto.points import OperatingPoint
from slm_operator.pareto.search import Settle
from slm_worker.wire import ReplicaState

SAMPLE_SECONDS = 15.0
"""Between two samples of the demand, as Kubernetes' own autoscaler has it, unless told
otherwise."""
EARLY_SHARE = 1 / 15
"""Of the period: a pass that comes so much too early samples too, rather than two passes later."""
START_SECONDS = 120.0
"""Taken for the start of a pack while none has told its own. Simulations take 60 s, with the image
and the model on the node; a new node may have neither, and a start that is taken for too long only
adds a pack sooner."""
MOST_PLACING_SECONDS = 600.0
"""Enough for a cluster that adds a node, with its driver, and for the image on it. A Pod that took
longer waited for a GPU to become free, which tells nothing of the next one's start; taken as it is,
demand would be foreseen for an hour after an hour's wait."""


@dataclass(frozen=True)
class Wanted:
    """How many packs there shall be after this pass, and why."""

    packs: int
    kept: DemandKept
    demand: Demand | None = None
    """None where spec.packs decides, and while nothing can be decided."""
    point: OperatingPoint | None = None
    """What one pack was measured to serve."""
    start_seconds: float = START_SECONDS
    """From asking for a pack to its taking part."""
    silent: tuple[str, ...] = ()
    """Packs whose part of the demand is not known this time."""
    sample_in_seconds: float | None = None
    """When the next sample is due."""
    zero: ZeroRule | None = None
    """Why the number became zero, or is no longer."""
    held: int = 0
    """Requests at the activator."""
    no_zero: Trouble | None = None
    """Why one pack stays where none would be needed."""


def wanted_packs(
    snapshot: Snapshot, calibration: Calibration, period_seconds: float = SAMPLE_SECONDS
) -> Wanted:
    """Samples the demand when it is time to, and decides by what is known of it."""
    service, kept = snapshot.service, snapshot.memory.demand
    if not service.follows_demand:
        return Wanted(service.spec.packs, DemandKept())
    serving = [p for p in snapshot.packs if not (p.terminating or p.ended)]
    silent = tuple(p.name for p in serving if p.agent is None and p.silence is not None)
    kept, sample = (
        (kept, None)
        if silent or _due_in(kept, snapshot.seconds, period_seconds) > EARLY_SHARE * period_seconds
        else _sampled(kept, snapshot.seconds, serving)
    )
    point, start_seconds = capacity(calibration), pack_start_seconds(serving)
    answering = any(p.agent is not None for p in serving)
    told = sample is not None or not (silent or answering)
    none, kept = zero(snapshot, calibration, kept, serving, told, point is not None)
    found = Wanted(
        packs=service.wanted_packs,
        kept=kept,
        point=point,
        start_seconds=start_seconds,
        silent=silent,
        sample_in_seconds=_due_in(kept, snapshot.seconds, period_seconds),
        zero=none.rule,
        held=snapshot.activation.held if snapshot.activation else 0,
        no_zero=holding_trouble(service, snapshot.activation),
    )
    if none.packs is not None:
        # What arrives next is another time's demand; only surges are remembered across.
        asleep = DemandMemory(surges=kept.memory.surges)
        return replace(
            found,
            packs=none.packs,
            kept=replace(kept, memory=asleep, idle=Idle()),
            sample_in_seconds=None,
        )
    if point is None:
        return replace(found, kept=replace(kept, memory=DemandMemory()))
    # A prompt's share is in the measured throughput, at the lengths of the calibration.
    cost = PackCost(0.0, 1 / point.output_tokens_per_second)
    demand, memory = decide_packs(
        kept.memory,
        sample,
        snapshot.seconds,
        service.wanted_packs,
        cost,
        _rules(service, start_seconds, period_seconds),
    )
    return replace(found, packs=demand.packs, demand=demand, kept=replace(kept, memory=memory))


def capacity(calibration: Calibration) -> OperatingPoint | None:
    """The measured point of what packs run that do not explore; None while there is none. One that
    was measured under another traffic is better than none."""
    if isinstance(calibration.step, Settle):
        point: OperatingPoint | None = calibration.step.choice.chosen
    else:
        known = (*calibration.counting, *calibration.points)
        point = next((p for p in known if p.probe == calibration.incumbent), None)
    return point if point is not None and point.output_tokens_per_second > 0 else None


def pack_start_seconds(packs: Sequence[Pack]) -> float:
    """The longest that a pack took, as it told itself: to its container's start, as far as that
    may have been the cluster's work, and its replicas' starts."""
    told = []
    for pack in packs:
        replicas = pack.agent.replicas if pack.agent else ()
        replicas_seconds = _replicas_start_seconds(replicas)
        if pack.placing_seconds is not None and replicas_seconds is not None:
            told.append(min(pack.placing_seconds, MOST_PLACING_SECONDS) + replicas_seconds)
    return max(told, default=START_SECONDS)


def _replicas_start_seconds(replicas: Sequence[ReplicaState]) -> float | None:
    """As the agent starts them: the first alone, and the others together where each is told the
    size of its cache."""
    starts = [r.start_seconds for r in replicas if r.start_seconds is not None]
    if not replicas or len(starts) < len(replicas):
        return None
    if any(r.kv_cache_bytes is None for r in replicas):
        return sum(starts)
    return starts[0] + max(starts[1:], default=0.0)


def _rules(service: SLMService, start_seconds: float, period_seconds: float) -> DemandRules:
    autoscaling = service.autoscaling
    # Work that is forecast never takes less than one pack; that none is needed is another rule's.
    fewest = max(1, autoscaling.fewest_packs)
    return DemandRules(
        min_packs=fewest,
        max_packs=autoscaling.max_packs or fewest,
        start_seconds=start_seconds,
        stabilization_seconds=autoscaling.scale_down_stabilization_seconds,
        period_seconds=period_seconds,
    )


def _sampled(
    kept: DemandKept, now_seconds: float, packs: Sequence[Pack]
) -> tuple[DemandKept, DemandSample | None]:
    """A sample of the whole service; what a missing one would have held is in the next."""
    states = {p.uid: p.agent for p in packs if p.agent is not None}
    if not states:
        return kept, None
    tally = counted(kept.tally, states, [p.uid for p in packs if p.agent is None])
    sample = DemandSample(
        at_seconds=now_seconds,
        arrived=tally.arrived,
        completed=tally.completed,
        prompt_tokens=tally.prompt_tokens,
        output_tokens=tally.output_tokens,
        waiting=sum(waiting(s) for s in states.values()),
    )
    return replace(kept, tally=tally, sampled_at_seconds=now_seconds), sample


def _due_in(kept: DemandKept, now_seconds: float, period_seconds: float) -> float:
    if kept.sampled_at_seconds is None:
        return 0.0
    return max(0.0, kept.sampled_at_seconds + period_seconds - now_seconds)
