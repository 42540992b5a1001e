"""Services as the operator would report them, for tests of the command line and the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from builders import h100, point
from slm_operator.api.models import SLMService
from slm_operator.api.status import (
    CalibrationStatus,
    Condition,
    FrontierPoint,
    MeasuringStatus,
    SLMServiceStatus,
)
from slm_operator.cli.local import request
from slm_operator.cli.local.answer import Answer
from slm_operator.cli.local.request import GpuKind, Request, manifest
from slm_operator.cli.outcome import Outcome, Requests
from slm_operator.decide import explanation
from slm_operator.decide import points as shown
from slm_operator.pareto.objective import Objective
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.search import Measure, SearchSpace, Settle, next_step
from slm_worker.wire import LoadState

NOW = "2026-01-01T00:00:00Z"
Curve = Callable[[Probe], OperatingPoint]
H100_SPACE = SearchSpace(1, 4, 256, batch_is_free=True, objective=Objective())
CPU_SPACE = SearchSpace(1, 3, 8, batch_is_free=False, objective=Objective())


def without_power(probe: Probe) -> OperatingPoint:
    """Real vLLM on two cores: its knee is at two replicas."""
    tokens_per_second = {1: 129.0, 2: 249.0, 3: 178.0}[probe.replicas]
    return point(
        probe.replicas,
        tokens_per_second,
        layout=probe.layout_replicas,
        max_num_seqs=probe.max_num_seqs,
    )


def searched(space: SearchSpace, curve: Curve) -> tuple[tuple[OperatingPoint, ...], Settle]:
    """The points that the search measures on ``curve``, and its end."""
    points: tuple[OperatingPoint, ...] = ()
    while isinstance(step := next_step(space, points), Measure):
        points = (*points, curve(step.probe))
    return points, step


def condition(kind: str, status: str, reason: str, message: str = "so it is") -> Condition:
    return Condition.model_validate(
        {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message,
            "lastTransitionTime": NOW,
            "observedGeneration": 1,
        }
    )


def settled(space: SearchSpace = H100_SPACE, curve: Curve = h100) -> tuple[FrontierPoint, ...]:
    """The measured points as the status holds them after the search."""
    points, end = searched(space, curve)
    return shown.frontier(points, space, end)


def service(status: SLMServiceStatus | None = None, *, gpu: str = "Simulated") -> SLMService:
    return SLMService.from_object(object_of(status or SLMServiceStatus(), gpu=gpu))


def object_of(
    status: SLMServiceStatus, *, name: str = "chat", gpu: str = "Simulated"
) -> dict[str, Any]:
    """As the API server holds it."""
    engine = "Simulated" if gpu == "Simulated" else "vLLM"
    return {
        "apiVersion": "serving.slm.dev/v1alpha1",
        "kind": "SLMService",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": "u",
            "generation": 1,
            "creationTimestamp": NOW,
        },
        "spec": {
            "model": {"uri": "hf://facebook/opt-1.3b"},
            "engine": {"kind": engine},
            "gpu": {"kind": gpu},
        },
        "status": status.to_object(),
    }


def searching() -> SLMServiceStatus:
    """The first point is being measured."""
    return SLMServiceStatus(
        packs=1,
        ready_packs=1,
        replicas=4,
        ready_replicas=4,
        calibration=CalibrationStatus(
            fingerprint="f",
            phase="Searching",
            measuring=MeasuringStatus(
                layout_replicas=4,
                replicas_per_pack=1,
                max_num_seqs=256,
                since=NOW,
                window_seconds=36,
            ),
        ),
        conditions=(
            condition("Ready", "True", "Searching"),
            condition("Calibrated", "False", "Searching", "measuring 1 replica x 256: how much?"),
        ),
    )


def found(space: SearchSpace = H100_SPACE, curve: Curve = h100) -> SLMServiceStatus:
    """The search has ended."""
    end = searched(space, curve)[1]
    choice = end.choice
    return SLMServiceStatus(
        packs=1,
        ready_packs=1,
        replicas=2,
        ready_replicas=2,
        recommended_replicas_per_pack=choice.chosen.probe.replicas,
        operating_point=shown.operating_point(choice.chosen),
        frontier=settled(space, curve),
        calibration=CalibrationStatus(fingerprint="f", phase="Done"),
        conditions=(
            condition("Ready", "True", "Serving"),
            condition("Calibrated", "True", "KneeFound", choice.sentence),
        ),
        history=(explanation.entry(explanation.knee(service(), None, end), NOW),),
    )


def outcome(status: SLMServiceStatus | None = None, *, gpu: str = "Simulated") -> Outcome:
    status = status or found()
    assert status.operating_point is not None
    return Outcome(
        engine="simulated" if gpu == "Simulated" else "vllm",
        gpu="Simulated H100 64GB",
        machine="a machine <with> 2 cores",
        service=service(status, gpu=gpu),
        knee=status.operating_point,
        decisions=status.history,
        requests=Requests(331, 331, 0),
        load=LoadState(sent=4603, completed=1849, cancelled=2754),
        operator_kills=0,
        seconds=124.1,
        finished_at=NOW,
    )


def answer(
    model: str = "hf://facebook/opt-1.3b", gpu: GpuKind = "Simulated", **options: Any
) -> Answer:
    wanted = manifest(Request(model, gpu, **options))
    status = found(CPU_SPACE, without_power) if gpu == "CPU" else found()
    return Answer(
        wanted=wanted,
        service=request.service(wanted).model_copy(update={"status": status}),
        gpu="Simulated H100 SXM 64 GB",
        machine="a machine with 2 cores",
        decisions=status.history,
        load=LoadState(sent=30, completed=10, cancelled=20),
        seconds=88.46,
        finished_at=NOW,
    )
