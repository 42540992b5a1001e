"""What a run of the demo is asked for and found, and how it is told by JSON. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from slm_operator.api.models import SLMService
from slm_operator.api.status import Figures, HistoryEntry, OperatingPointStatus
from slm_worker.wire import LoadState

EngineName = Literal["simulated", "vllm"]


class DemoFailedError(Exception):
    """The demo cannot go on; the message has cause, remedy and the logs that show it."""


@dataclass(frozen=True)
class Options:
    engine: EngineName
    keep: bool
    """Leave everything running after the decision, until a signal."""
    kill_operator: bool
    """Kill the operator in mid-search and start it again."""
    min_window_seconds: float | None
    """Shortest window, for runs that need no precision; None: the operator's own."""


@dataclass(frozen=True)
class Requests:
    """Requests of the demo's own clients."""

    sent: int
    completed: int
    failed: int
    last_failure: str = ""


@dataclass(frozen=True)
class Outcome:
    engine: EngineName
    gpu: str
    """The device's name, as the agent reports it."""
    machine: str
    """The host that this ran on, in words."""
    service: SLMService
    """As it was after the decision."""
    knee: OperatingPointStatus
    decisions: tuple[HistoryEntry, ...]
    """All of the run, oldest first."""
    requests: Requests
    load: LoadState
    """The agent's calibration load."""
    operator_kills: int
    seconds: float
    finished_at: str
    """RFC 3339, UTC."""

    @property
    def simulated(self) -> bool:
        return any(p.simulated for p in self.service.status.frontier)

    @property
    def sentence(self) -> str:
        """The decision, and why."""
        return next((p.why for p in self.service.status.frontier if p.chosen), "")


def document(outcome: Outcome) -> dict[str, Any]:
    """As one JSON document; figures in the units that their names give."""
    status, requests = outcome.service.status, outcome.requests
    return {
        "engine": outcome.engine,
        "gpu": outcome.gpu,
        "machine": outcome.machine,
        "simulated": outcome.simulated,
        "knee": knee_figures(outcome.knee),
        "why": outcome.sentence,
        "points": status.to_object().get("frontier", []),
        "decisions": [d.model_dump(mode="json", by_alias=True) for d in outcome.decisions],
        "requests": {
            "sent": requests.sent,
            "completed": requests.completed,
            "failed": requests.failed,
        },
        "calibrationLoad": load_figures(outcome.load),
        "operatorKills": outcome.operator_kills,
        "seconds": round(outcome.seconds, 1),
        "finishedAt": outcome.finished_at,
    }


def knee_figures(knee: Figures) -> dict[str, Any]:
    return {
        "replicasPerPack": knee.replicas_per_pack,
        "maxNumSeqs": knee.max_num_seqs,
        "outputTokensPerSecond": knee.output_tokens_per_second,
        "powerWatts": knee.power_watts,
        "microjoulesPerOutputToken": knee.microjoules_per_output_token,
    }


def load_figures(load: LoadState) -> dict[str, int]:
    return {
        "sent": load.sent,
        "completed": load.completed,
        "failed": load.failed,
        "cancelled": load.cancelled,
    }
