"""What ``slmctl local`` found, as text, JSON and an SLMService for a cluster. Pure."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import yaml
from rich.console import Group, RenderableType
from rich.text import Text

from slm_operator.api.models import SLMService
from slm_operator.api.status import FrontierPoint, HistoryEntry
from slm_operator.cli import tables
from slm_operator.cli.local.request import Manifest
from slm_operator.cli.outcome import knee_figures, load_figures
from slm_worker.wire import LoadState


@dataclass(frozen=True)
class Answer:
    wanted: Manifest
    """The SLMService that was asked for."""
    service: SLMService
    """As it was after the decision."""
    gpu: str
    """The device's name, as the agent reports it."""
    machine: str
    """This host, in words."""
    decisions: tuple[HistoryEntry, ...]
    """All of the run, oldest first."""
    load: LoadState
    """The agent's calibration load."""
    seconds: float
    finished_at: str
    """RFC 3339, UTC."""

    @property
    def knee(self) -> FrontierPoint:
        """The chosen point. There is one once the search has ended."""
        return next(p for p in self.service.status.frontier if p.chosen)

    @property
    def simulated(self) -> bool:
        return self.knee.simulated

    @property
    def bounded(self) -> str:
        """What kept the search from larger layouts than the knee's; empty when nothing did."""
        if any(
            c.type in ("SLOMet", "PowerBudgetMet") and c.status == "False"
            for c in self.service.status.conditions
        ):
            return ""
        most = self.service.autoscaling.max_replicas_per_pack
        if self.knee.replicas_per_pack == most:
            return f"No more than {most} were tried: a larger --max-replicas may serve more."
        feasible = self.service.status.condition("PackingFeasible")
        tried = max(p.layout_replicas for p in self.service.status.frontier)
        if feasible is not None and self.knee.replicas_per_pack == tried:
            return f"{feasible.reason}: {feasible.message}"
        return ""


def slmservice(answer: Answer) -> Manifest:
    """The object that finds the same knee in a cluster: as it was asked for, with the batch that
    was chosen."""
    found = deepcopy(answer.wanted)
    found["spec"].setdefault("engine", {})["maxNumSeqs"] = answer.knee.max_num_seqs
    return found


def manifest_text(answer: Answer) -> str:
    """The SLMService as YAML, ready for kubectl, and what it rests on as comments."""
    knee = answer.knee
    fixed = f"spec.replicasPerPack: {knee.replicas_per_pack}"
    place = " in place of spec.autoscaling" if "autoscaling" in answer.wanted["spec"] else ""
    comments = [
        f"Measured by slmctl local on {answer.gpu}:",
        f"{tables.point_name(knee)}: {tables.point_figures(knee)}.",
        "The operator finds the count anew on each cluster's GPU. To fix it instead,",
        f"write {fixed}{place}.",
    ]
    if answer.service.spec.model.uri.startswith("file://"):
        comments += [
            "In a cluster the path of a file:// model is one inside the worker's container:",
            "use an image that has the model there, or name it on the hub, hf://ORGANISATION/NAME.",
        ]
    lines = "".join(f"# {line}\n" for line in comments)
    return lines + yaml.safe_dump(slmservice(answer), sort_keys=False, width=100)


def document(answer: Answer) -> dict[str, Any]:
    """As one JSON document; figures in the units that their names give."""
    status = answer.service.status
    return {
        "model": answer.service.spec.model.uri,
        "engine": answer.service.spec.engine.kind,
        "gpu": answer.gpu,
        "machine": answer.machine,
        "simulated": answer.simulated,
        "knee": knee_figures(answer.knee),
        "why": answer.knee.why,
        "points": status.to_object()["frontier"],
        "decisions": [d.model_dump(mode="json", by_alias=True) for d in answer.decisions],
        "calibrationLoad": load_figures(answer.load),
        "slmService": slmservice(answer),
        "seconds": round(answer.seconds, 1),
        "finishedAt": answer.finished_at,
    }


def text(answer: Answer) -> RenderableType:
    """The points, the knee and why, and where it was measured."""
    parts: list[RenderableType] = [
        Text(),
        tables.findings(answer.service.status.frontier),
        Text(),
        Text(f"{answer.knee.why}.", style="bold"),
    ]
    if answer.bounded:
        parts.append(Text(answer.bounded))
    parts.append(Text(f"Measured on {answer.gpu} of {answer.machine}, in {answer.seconds:.0f} s."))
    if answer.simulated:
        parts.append(Text(tables.SIMULATED_NOTE, style="yellow"))
    return Group(*parts, Text())
