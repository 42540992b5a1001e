"""What the exploring pack runs for a point that is to be measured, and under whose requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from slm_operator.api.models import SLMService
from slm_operator.decide.fingerprint import device, known_device
from slm_operator.decide.limits import limits
from slm_operator.decide.live import serving_probe, turn
from slm_operator.decide.snapshot import Memory, Pack, Snapshot
from slm_operator.decide.traffic import Traffic, calibration_load
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.search import Measure
from slm_operator.pareto.window import Measurement
from slm_operator.pareto.workload import Workload
from slm_worker.wire import Load, PackState

SILENT_SECONDS = 60.0
"""Four polls of a service at rest: an operator that has just started, and loses one poll of the
pack that was measured, does not drop all points for the GPU of another pack."""


@dataclass(frozen=True)
class Exploring:
    """What the exploring pack runs, and under which load of the operator's own."""

    probe: Probe
    load: Load | None
    measuring: bool = True
    waiting: bool = False
    left: bool = False
    """Whether the probe is left before its window was full."""
    elsewhere: Probe | None = None
    """What serves on packs that do not explore while nothing is chosen; None: the fewest."""
    overrun: str = ""
    """Why the probe was given up for the users' sake."""

    def next(self, step: Measure, state: PackState, points: Sequence[OperatingPoint]) -> Exploring:
        """For the step that follows in the same pass."""
        if self.load is not None:
            return replace(self, probe=step.probe)
        now = turn(step, state, (), points)
        return replace(
            self,
            probe=now.probe,
            measuring=now.measuring,
            waiting=now.waiting,
            elsewhere=serving_probe(step, points),
        )


def exploring_pack(snapshot: Snapshot) -> Pack | None:
    """The pack on which the search runs: the same one while it lives, so that a lost poll does not
    have another pack rebuilt; otherwise the first that answers, best on a GPU of which points are
    known: on another they would not count. None while one that may have such a GPU is silent."""
    placed = [p for p in snapshot.packs if not (p.terminating or p.ended or p.scheduling)]
    alive = [p for p in placed if not p.container]
    held = next((p for p in alive if p.uid == snapshot.memory.explorer), None)
    if held is not None:
        return held
    answering = [p for p in alive if p.agent is not None]
    known = known_device(snapshot.service)
    if not known or not answering:
        return next(iter(answering), None)
    best = min(answering, key=lambda p: (known, "", device(p.agent)).index(device(p.agent)))
    silent = any(p.agent is None and (p.silence or p.container) for p in placed)
    if device(best.agent) not in (known, "") and silent and not _has_waited(snapshot):
        return None
    return best


def _has_waited(snapshot: Snapshot) -> bool:
    since = snapshot.memory.silent_since_seconds
    return since is not None and snapshot.seconds - since >= SILENT_SECONDS


def exploration(
    service: SLMService,
    step: Measure,
    state: PackState,
    memory: Memory,
    points: Sequence[OperatingPoint],
    traffic: Traffic,
) -> Exploring:
    """``points``: those that count."""
    if service.autoscaling.calibration.when == "OnStart":
        return Exploring(step.probe, own_load(service, traffic))
    now = turn(
        step,
        state,
        memory.samples,
        points,
        left_at_seconds=memory.left_at_seconds,
        ttft_limit_seconds=limits(service).ttft_p95_seconds,
    )
    return Exploring(
        now.probe,
        None,
        now.measuring,
        now.waiting,
        left=now.left,
        elsewhere=serving_probe(step, points),
        overrun=now.overrun,
    )


def own_load(service: SLMService, traffic: Traffic) -> Load:
    """The operator's own load, as long as the traffic's requests have become."""
    workload = traffic.workload
    if workload is None:
        return calibration_load(service)
    return Load(
        prompt_tokens=max(1, round(workload.prompt_tokens)),
        output_tokens=max(1, round(workload.output_tokens)),
    )


def served(service: SLMService, window: Measurement, traffic: Traffic) -> Workload | None:
    """What a window is a measurement of: the operator's own load, or what the users sent."""
    if service.autoscaling.calibration.when == "OnStart":
        load = own_load(service, traffic)
        return Workload(load.prompt_tokens, load.output_tokens)
    if window.prompt_tokens is None or window.output_tokens is None:
        return traffic.workload
    arrivals = traffic.workload.arrivals if traffic.workload else None
    return Workload(window.prompt_tokens, window.output_tokens, arrivals)
