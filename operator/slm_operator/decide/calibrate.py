"""Which point to measure next on the exploring pack, and whether its window is finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from slm_operator.api.models import SLMService
from slm_operator.api.status import CalibrationStatus, LayoutStatus, PowerStatus
from slm_operator.decide import points as shown
from slm_operator.decide.expectation import expected_layout
from slm_operator.decide.exploring import Exploring, exploration, exploring_pack, served
from slm_operator.decide.failures import (
    breach,
    failed_layouts,
    from_status,
    remembered,
    with_failed,
)
from slm_operator.decide.fingerprint import fingerprint, profile_key, same_configuration
from slm_operator.decide.limits import limits, objective
from slm_operator.decide.live import Overrun, in_flight, without_restart
from slm_operator.decide.profile import Finding, Trial, trial
from slm_operator.decide.search_clock import SearchClock, search_clock
from slm_operator.decide.snapshot import Memory, Pack, Snapshot
from slm_operator.decide.traffic import Traffic, calibration_load, expected, follow
from slm_operator.pareto.choice import choose
from slm_operator.pareto.drift import learned
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.rulings import Ruling
from slm_operator.pareto.search import Measure, SearchSpace, Settle, next_step
from slm_operator.pareto.shift import ShiftRules
from slm_operator.pareto.window import Measurement, Measuring, Sample, WindowRules, evaluate
from slm_operator.pareto.workload import Workload
from slm_worker.wire import Load, PackState, Plan

DEFAULT_MAX_NUM_SEQS = 256
"""vLLM's own default, where the published measurements show the knee at two replicas."""
SAMPLES_KEPT = 600
DEFAULT_SHIFTS = ShiftRules()


@dataclass(frozen=True)
class Calibration:
    """Where the search stands after this pass."""

    fingerprint: str
    points: tuple[OperatingPoint, ...]
    """All valid measurements under this fingerprint."""
    memory: Memory
    traffic: Traffic
    """What a point has to have been measured with to count."""
    incumbent: Probe | None
    """The layout that was chosen before this pass, under the same fingerprint."""
    space: SearchSpace | None = None
    """None while the pack has not said what fits."""
    step: Measure | Settle | None = None
    """None for a fixed replica count, and while nothing is known of the pack."""
    exploring: Exploring | None = None
    """What the exploring pack runs while ``step`` is to be measured."""
    window: Measuring | None = None
    """Why the running measurement is not finished."""
    measured: OperatingPoint | None = None
    """The point that this pass added."""
    spoiled: Mapping[OperatingPoint, Ruling] = field(default_factory=dict)
    """Those of ``points`` that do not count now, and why."""
    found: Finding | None = None
    """What became of a profile that another service left."""
    clock: SearchClock = field(default_factory=SearchClock)
    cut_short: bool = False
    """Whether ``step`` settles although the search has not ended."""

    @property
    def counting(self) -> tuple[OperatingPoint, ...]:
        return tuple(p for p in self.points if p not in self.spoiled)

    @property
    def waiting(self) -> bool:
        """Whether the users' requests do not fill what is to be measured."""
        return self.exploring is not None and self.exploring.waiting


def resting_probe(service: SLMService) -> Probe:
    """What a pack runs while nothing is chosen: the fixed count, else the fewest allowed."""
    replicas = service.spec.replicas_per_pack or service.autoscaling.min_replicas_per_pack
    return Probe(replicas, replicas, service.spec.engine.max_num_seqs or DEFAULT_MAX_NUM_SEQS)


def searches(service: SLMService) -> bool:
    """Whether a replica count is to be found: not when it is fixed, unless asked to recommend."""
    return service.spec.replicas_per_pack is None or service.autoscaling.mode == "Recommend"


def search_space(
    service: SLMService, state: PackState, memory: Memory, power: PowerStatus | None = None
) -> SearchSpace | None:
    """What the spec allows, fits, and could be started. None until the agent knows what fits."""
    if state.packing is None:
        return None
    autoscaling = service.autoscaling
    given = service.spec.engine.max_num_seqs
    return SearchSpace(
        min_replicas=autoscaling.min_replicas_per_pack,
        max_replicas=min(autoscaling.max_replicas_per_pack, state.packing.max_replicas),
        max_num_seqs=given or DEFAULT_MAX_NUM_SEQS,
        batch_is_free=given is None,
        objective=objective(service),
        limits=limits(service, power),
        unstartable=_unstartable(memory),
    )


def profile_to_read(snapshot: Snapshot) -> str:
    """The key of the profile that this pass may begin with; empty while none is needed. Without a
    load of the operator's own no window could be made that confirms one."""
    service = snapshot.service
    if not searches(service) or service.autoscaling.calibration.when != "OnStart":
        return ""
    explorer = exploring_pack(snapshot)
    state = explorer.agent if explorer else None
    if state is None or state.packing is None:
        return ""
    mark, before = fingerprint(service, snapshot.worker_image, state), service.status.calibration
    measured = service.status.frontier and before is not None
    if measured and before is not None and same_configuration(before.fingerprint, mark):
        return ""
    return profile_key(service, snapshot.worker_image, state, calibration_load(service))


def calibrate(
    snapshot: Snapshot,
    explorer: Pack | None,
    known: tuple[OperatingPoint, ...],
    rules: WindowRules,
    shifts: ShiftRules = DEFAULT_SHIFTS,
) -> Calibration:
    """One pass. ``known``: the points that the status holds, whatever their fingerprint."""
    service, memory = snapshot.service, snapshot.memory
    state = explorer.agent if explorer else None
    mark = fingerprint(service, snapshot.worker_image, state)
    before = service.status.calibration
    same = before is not None and same_configuration(before.fingerprint, mark)
    incumbent = None
    if not same:
        known = ()
    elif before is not None:
        incumbent = _probe(before.chosen)
    here = Calibration(mark, known, memory, expected(service, same), incumbent)
    if explorer is None or state is None:
        since = memory.silent_since_seconds
        since = snapshot.seconds if since is None else since
        return replace(here, memory=replace(memory, silent_since_seconds=since))
    memory = replace(memory, explorer=explorer.uid, silent_since_seconds=None)
    memory = _with_failures(memory, before, mark, state.agent_id, snapshot.now)
    space = search_space(service, state, memory, snapshot.power)
    if not searches(service) or space is None or state.packing is None:
        return replace(here, space=space, memory=_forget(memory))
    if space.max_replicas < space.min_replicas:
        return replace(here, space=space, memory=_forget(memory))
    if known and before is not None:
        # A search goes on where it began, whatever the planner says by now.
        space = replace(space, expected=_probe(before.expected))
    else:
        space = replace(space, expected=expected_layout(state.packing.outlook, space))
    if service.autoscaling.calibration.when == "Never":
        step = _of_what_is_known(space, known, incumbent)
        return replace(here, space=space, step=step, memory=_forget(memory))
    traffic, watch = follow(
        here.traffic, memory.watch, state, known, incumbent, snapshot.now, shifts
    )
    memory = replace(memory, watch=watch)
    if memory.overrun is not None and memory.overrun.over(state):
        if memory.overrun.was_too_few(state):
            traffic = replace(traffic, too_few_replicas=memory.overrun.replicas)
        memory = replace(memory, overrun=None)
    spoiled = {p: why for p in known if (why := traffic.why_not(p, snapshot.now, shifts))}
    if known and len(spoiled) == len(known):
        traffic = replace(traffic, too_few_replicas=0)
    fewest = min(traffic.too_few_replicas + 1, space.max_replicas)
    space = replace(space, min_replicas=max(space.min_replicas, fewest))
    bounds = (space.min_replicas, space.max_replicas, space.max_num_seqs, space.batch_is_free)
    edited = memory.bounds not in (None, bounds)
    clock = search_clock(service, same, edited, traffic, snapshot.now)
    memory = replace(memory, bounds=bounds)
    here = replace(here, traffic=traffic, memory=memory, space=space, spoiled=spoiled, clock=clock)
    return _search(here, space, snapshot, state, rules, shifts)


def _search(
    here: Calibration,
    space: SearchSpace,
    snapshot: Snapshot,
    state: PackState,
    rules: WindowRules,
    shifts: ShiftRules,
) -> Calibration:
    """The part of a pass that walks on: with the points that count, on a pack that answers."""
    service, memory, counting = snapshot.service, here.memory, here.counting
    live = service.autoscaling.calibration.when == "Live"
    step: Measure | Settle = next_step(space, counting, here.incumbent)
    if isinstance(step, Measure) and here.clock.out_of_time:
        step = next_step(space, counting, here.incumbent, out_of_time=True)
        here = replace(here, cut_short=isinstance(step, Settle))
    known_knee = _known_knee(here, space, snapshot, state, shifts)
    if isinstance(known_knee, Trial):
        step = known_knee.step
    elif known_knee is not None:
        here = replace(here, found=known_knee)
    if live:
        step = without_restart(step, space, counting, here.incumbent, state)
    here = replace(here, step=step)
    if isinstance(step, Settle):
        return replace(here, memory=_forget(memory))
    if live:
        memory = remember(memory, state)
    exploring = exploration(service, step, state, memory, _runnable(counting, space), here.traffic)
    here = replace(here, exploring=exploring)
    if exploring.left:
        memory = replace(_forget(memory), left_at_seconds=state.clock_seconds)
        if exploring.overrun:
            overrun = Overrun(step.probe.replicas, in_flight(state), state.clock_seconds)
            memory = replace(memory, overrun=overrun)
        return replace(here, memory=memory)
    if state.plan != plan(exploring.probe, exploring.load, state.plan):
        return replace(here, memory=_forget(memory))
    served_in_it = bool(memory.samples) and memory.measuring_generation == state.plan.generation
    failed = failed_layouts(state, exploring.probe, snapshot.now, has_served=served_in_it)
    if failed:
        unstartable = with_failed(memory.unstartable, failed)
        memory = replace(_forget(memory), unstartable=unstartable)
        space = replace(space, unstartable=_unstartable(memory))
        return _next(here, space, next_step(space, counting, here.incumbent), state, memory)
    if not exploring.measuring:
        return replace(here, memory=memory)
    memory = remember(memory, state)
    window = evaluate(memory.samples, rules)
    if isinstance(window, Measuring):
        as_point = partial(point_of, step.probe, state=state, now=snapshot.now)
        window = breach(memory.samples, rules, space.limits, as_point) or window
    if isinstance(window, Measuring):
        return replace(here, window=window, memory=memory)
    workload = served(service, window, here.traffic)
    if here.traffic.workload is None:
        here = replace(here, traffic=replace(here.traffic, workload=workload))
    point = shown.kept(point_of(step.probe, window, state, snapshot.now, workload))
    incumbent = here.incumbent
    if isinstance(known_knee, Trial):
        counting, found = known_knee.judge(point, space)
        here = replace(here, found=found)
        incumbent = found.knee if found.reason == "ProfileUsed" else None
    else:
        counting = tuple(map(shown.kept, learned(counting, point)))
    here = replace(here, points=(*here.spoiled, *counting), measured=counting[-1])
    return _next(here, space, next_step(space, counting, incumbent), state, _forget(memory))


def _known_knee(
    here: Calibration,
    space: SearchSpace,
    snapshot: Snapshot,
    state: PackState,
    shifts: ShiftRules,
) -> Trial | Finding | None:
    """What others left is asked for before anything is measured here."""
    if here.points or snapshot.profile is None:
        return None
    simulated = state.gpu.simulated
    return trial(snapshot.profile, space, here.traffic, simulated, snapshot.now, shifts)


def _next(
    here: Calibration,
    space: SearchSpace,
    step: Measure | Settle,
    state: PackState,
    memory: Memory,
) -> Calibration:
    """With the step that follows in the same pass, and what the pack runs for it."""
    exploring = here.exploring
    if exploring is not None and exploring.load is None:
        step = without_restart(step, space, here.counting, here.incumbent, state)
    if isinstance(step, Measure) and exploring is not None:
        exploring = exploring.next(step, state, _runnable(here.counting, space))
    return replace(here, space=space, step=step, exploring=exploring, memory=memory)


def _of_what_is_known(
    space: SearchSpace, known: tuple[OperatingPoint, ...], incumbent: Probe | None
) -> Settle | None:
    """Without measuring: the best committed layout that is allowed today, whatever it served."""
    able = [p for p in known if p.probe.committed and space.holds(p.probe)]
    if not able:
        return None
    return Settle(choose(able, space.objective, space.limits, incumbent=incumbent), ())


def _runnable(points: Sequence[OperatingPoint], space: SearchSpace) -> list[OperatingPoint]:
    """Those that a pack may be brought to: the spec may have allowed more when they were found."""
    able = (p for p in points if p.probe.layout_replicas <= space.max_replicas)
    return [p for p in able if space.holds(p.probe)]


def _unstartable(memory: Memory) -> frozenset[tuple[int, int]]:
    return frozenset((u.replicas, u.max_num_seqs) for u in memory.unstartable)


def _probe(layout: LayoutStatus | None) -> Probe | None:
    if layout is None:
        return None
    return Probe(layout.replicas_per_pack, layout.replicas_per_pack, layout.max_num_seqs)


def _with_failures(
    memory: Memory, before: CalibrationStatus | None, mark: str, agent_id: str, now: str
) -> Memory:
    """With the layouts that failed under this fingerprint and agent, another one may start them;
    as long as the search is open, without those that may be tried again."""
    key = f"{mark}/{agent_id}"
    failed = memory.unstartable
    if memory.unstartable_for != key:
        restarted = not memory.unstartable_for
        same = before is not None and same_configuration(before.fingerprint, mark)
        failed = from_status(before.failed_layouts) if before and same and restarted else ()
    if before is None or before.phase != "Done":
        failed = remembered(failed, now)
    return replace(memory, unstartable=failed, unstartable_for=key)


def plan(probe: Probe, load: Load | None, current: Plan | None) -> Plan:
    """The plan for ``probe``: the current one when it says the same, else the next generation."""
    generation = current.generation if current else 0
    wanted = Plan(
        generation=max(generation, 1),
        layout={"replicas": probe.layout_replicas, "max_num_seqs": probe.max_num_seqs},
        rotation=probe.replicas,
        load=load,
    )
    if wanted == current:
        return wanted
    return wanted.model_copy(update={"generation": generation + 1})


def remember(memory: Memory, state: PackState) -> Memory:
    """Adds the newest poll; another plan's samples, or the same poll again, are not kept."""
    generation = state.plan.generation if state.plan else 0
    samples = memory.samples if memory.measuring_generation == generation else ()
    if state.settled and state.settled_since_seconds is not None and state.counters is not None:
        running = sum(r.running or 0 for r in state.replicas if r.in_rotation)
        fresh = Sample(
            state.agent_id, state.settled_since_seconds, state.counters, running, state.load
        )
        if not samples or samples[-1].counters != fresh.counters:
            samples = (*samples[-SAMPLES_KEPT:], fresh)
    return replace(memory, samples=samples, measuring_generation=generation)


def _forget(memory: Memory) -> Memory:
    return replace(memory, samples=(), measuring_generation=0)


def point_of(
    probe: Probe,
    window: Measurement,
    state: PackState,
    now: str,
    workload: Workload | None = None,
) -> OperatingPoint:
    return OperatingPoint(
        probe=probe,
        output_tokens_per_second=window.output_tokens_per_second,
        confidence_tokens_per_second=window.confidence_tokens_per_second,
        power_watts=window.power_watts,
        ttft_p95_seconds=window.ttft_p95_seconds,
        itl_p95_seconds=window.itl_p95_seconds,
        window_seconds=window.window_seconds,
        saturated_fraction=window.saturated_fraction,
        measured_at=now,
        simulated=state.gpu.simulated,
        preemptions_per_request=window.preemptions_per_request,
        workload=workload,
        power_capped_fraction=window.power_capped_fraction,
    )
