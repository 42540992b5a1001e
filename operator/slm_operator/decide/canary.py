"""Whether the one pack that is tried with a new template proves itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

from slm_operator.api.models import SLMService
from slm_operator.decide.calibrate import plan, point_of, remember
from slm_operator.decide.failures import AT_ONCE, LAYOUT_GIVE_UP_FAILURES, breach
from slm_operator.decide.limits import limits
from slm_operator.decide.snapshot import CanarySamples, Memory, Pack, Snapshot
from slm_operator.pareto.objective import Limits
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.window import Measurement, Measuring, WindowRules, evaluate
from slm_operator.pareto.workload import Workload
from slm_worker.planning.packing import with_remedies
from slm_worker.planning.remedies import remedies
from slm_worker.wire import Load, PackState, Plan, ReplicaPhase

SCHEDULED, RUNNING, ANSWERING, SIZED = 1, 2, 3, 4
READY = 50
"""Past all replicas that a pack can have."""


@dataclass(frozen=True)
class Yardstick:
    """What the canary runs, and what it is held to."""

    probe: Probe
    """What packs of the template before run."""
    point: OperatingPoint | None = None
    """What they were measured to serve with it; None: readiness alone is judged."""
    load: Load | None = None
    """That it was measured with; None: the users' own, which tell nothing on demand."""
    same_model: bool = True
    """Whether energy per token compares: another model's tokens are others."""


@dataclass(frozen=True)
class Judgement:
    """What is known of the canary after this pass."""

    kept: CanarySamples = field(default_factory=CanarySamples)
    plan: Plan | None = None
    """What it shall run; None: as it does."""
    measures: bool = False
    passed: bool = False
    failed: str = ""
    """Why it may not stay, with both numbers."""
    figures: str = ""
    """What it passed with."""
    point: OperatingPoint | None = None
    probe: Probe | None = None
    """What it ran when it was judged."""


def judge(
    service: SLMService,
    pack: Pack | None,
    held_to: Yardstick,
    snapshot: Snapshot,
    rules: WindowRules,
) -> Judgement:
    """One pass. ``service``: with the template that is tried. First every replica of the layout
    that runs elsewhere has to be ready; then, where that was measured, so is the canary."""
    state, now = pack.agent if pack is not None else None, snapshot.now
    kept, allowed = snapshot.memory.canary, limits(service, snapshot.power)
    if pack is None or state is None or state.packing is None:
        return Judgement()
    least = service.spec.replicas_per_pack or service.autoscaling.min_replicas_per_pack
    fits = state.packing.max_replicas
    if fits < least:
        text = f"{fits} replicas fit, {least} are wanted: {state.packing.message}"
        return Judgement(failed=with_remedies(text, remedies(least, state.packing, state.gpu)))
    if broken := _broken(state):
        return Judgement(failed=broken)
    probe = _probe(service, held_to.probe, fits)
    measured = held_to.point
    compares = measured is not None and held_to.load is not None and measured.probe == probe
    resting, loaded = plan(probe, None, state.plan), plan(probe, held_to.load, state.plan)
    if state.plan not in (resting, loaded):
        return Judgement(plan=resting, probe=probe)
    if not (pack.ready and state.settled) and state.plan == resting:
        return Judgement(probe=probe)
    if not compares or measured is None or held_to.load is None:
        figures = "it is ready, and there is no measured point to hold it to"
        return Judgement(passed=True, figures=figures, probe=probe)
    if state.plan != loaded:
        return Judgement(plan=loaded, measures=True, probe=probe)
    memory = remember(Memory(samples=kept.samples, measuring_generation=kept.generation), state)
    going_on = Judgement(
        CanarySamples(memory.samples, memory.measuring_generation), measures=True, probe=probe
    )
    window = evaluate(memory.samples, rules)
    if isinstance(window, Measuring):
        as_point = partial(point_of, probe, state=state, now=now)
        window = breach(memory.samples, rules, allowed, as_point) or window
    if not isinstance(window, Measurement):
        return going_on
    workload = Workload(held_to.load.prompt_tokens, held_to.load.output_tokens)
    point = point_of(probe, window, state, now, workload)
    worse = _worse(service, allowed, point, measured, held_to.same_model)
    return replace(
        going_on,
        point=point,
        passed=not worse,
        failed=worse,
        figures=_energy_text(point, measured),
    )


def advance(pack: Pack | None) -> int:
    """How far a pack has come on its way to serving: only a higher number is progress."""
    if pack is None or pack.scheduling is not None:
        return 0
    if not pack.address:
        return SCHEDULED
    if pack.agent is None:
        return RUNNING
    if pack.agent.packing is None:
        return ANSWERING
    if pack.ready and pack.agent.settled:
        return READY
    return SIZED + sum(r.phase is ReplicaPhase.READY for r in pack.agent.replicas)


def starts_well(pack: Pack | None) -> bool:
    """Whether an engine starts that has not failed yet. The agent ends a start that stalls."""
    state = pack.agent if pack is not None else None
    return state is not None and any(
        r.phase is ReplicaPhase.STARTING and r.failures == 0 and r.problem is None
        for r in state.replicas
    )


def _broken(state: PackState) -> str:
    for replica in state.replicas:
        problem = replica.problem
        if replica.phase is ReplicaPhase.READY or problem is None:
            continue
        if replica.failures >= (1 if problem.reason in AT_ONCE else LAYOUT_GIVE_UP_FAILURES):
            times = f"{replica.failures} times" if replica.failures > 1 else "once"
            return f"a replica failed {times}: {problem.reason}: {problem.message}"
    return ""


def _probe(service: SLMService, elsewhere: Probe, fits: int) -> Probe:
    replicas = min(service.spec.replicas_per_pack or elsewhere.layout_replicas, fits)
    return Probe(replicas, replicas, service.spec.engine.max_num_seqs or elsewhere.max_num_seqs)


def _worse(
    service: SLMService,
    allowed: Limits,
    point: OperatingPoint,
    before: OperatingPoint,
    same_model: bool,
) -> str:
    broken = allowed.broken_by(point)
    if broken is not None and allowed.broken_by(before) is None:
        return f"{point.probe}: {broken.text}; the template before keeps it"
    energy, former = point.joules_per_output_token, before.joules_per_output_token
    if not same_model or energy is None or not former:
        return ""
    margin = service.rollout.max_energy_increase_percent
    if energy / former - 1 <= margin / 100:
        return ""
    return (
        f"{_energy_text(point, before)}, and spec.rollout.maxEnergyIncreasePercent allows "
        f"{margin} %"
    )


def _energy_text(point: OperatingPoint, before: OperatingPoint) -> str:
    energy, former = point.joules_per_output_token, before.joules_per_output_token
    rates = (
        f"{point.output_tokens_per_second:,.0f} output tok/s against "
        f"{before.output_tokens_per_second:,.0f}"
    )
    if energy is None or not former:
        return f"{point.probe}: {rates}"
    change = (energy / former - 1) * 100
    return (
        f"{point.probe}: energy per token {energy:.4f} J against {former:.4f} J before "
        f"({change:+.0f} %), {rates}"
    )
