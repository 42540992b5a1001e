"""Services and their measured points as rich renderables. Pure, but for the age of an object."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from slm_operator.api.models import SLMService
from slm_operator.api.status import (
    Condition,
    Figures,
    FrontierPoint,
    JudgedPoint,
    SLMServiceStatus,
)
from slm_operator.cli.picture import picture
from slm_operator.cli.plot import plot

SIMULATED = "simulated"
SIMULATED_NOTE = "The figures are simulated: no GPU was measured."
UNKNOWN = "-"


def simulated(service: SLMService) -> bool:
    return service.spec.gpu.kind == "Simulated"


def age(created: str, now: datetime) -> str:
    """How long ago an RFC 3339 time was, in its largest unit."""
    seconds = max(0, int((now - datetime.fromisoformat(created)).total_seconds()))
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def services_table(services: Iterable[tuple[SLMService, str]]) -> Table:
    """One row for each service and its age."""
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("NAME", no_wrap=True)
    table.add_column("MODEL", overflow="ellipsis")  # the one that gives way
    table.add_column("GPU", no_wrap=True)
    for title in ("PACKS", "REPLICAS", "TOK/S", "W", "J/TOK"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("READY", "REASON", "AGE"):
        table.add_column(title, no_wrap=True)
    for service, how_old in services:
        status, ready = service.status, service.status.condition("Ready")
        table.add_row(
            service.name,
            service.spec.model.uri,
            SIMULATED if simulated(service) else service.spec.gpu.kind,
            f"{status.ready_packs}/{service.wanted_packs}",
            f"{status.ready_replicas}/{status.replicas}",
            *_operating_point(service),
            ready.status if ready else "Unknown",
            ready.reason if ready else "NotSeenYet",
            how_old,
        )
    return table


def details(service: SLMService) -> RenderableType:
    """Everything that a user asks first of one service."""
    status = service.status
    head = Table.grid(padding=(0, 2))
    rows = [
        ("Service", f"{service.namespace}/{service.name}"),
        ("Model", f"{service.spec.model.uri}, served as {service.model_name}"),
        ("Engine", f"{service.spec.engine.kind} on {service.spec.gpu.kind}"),
        ("Packs", f"{status.ready_packs} of {service.wanted_packs} ready"),
        ("Replicas", f"{status.ready_replicas} of {status.replicas} ready"),
        ("Search", standing(service)),
        ("Runs", _runs(service)),
    ]
    for name, text in rows:
        head.add_row(Text(name, style="bold"), text)
    conditions = Table("CONDITION", "STATUS", "REASON", "MESSAGE", box=None, pad_edge=False)
    for condition in status.conditions:
        conditions.add_row(
            condition.type, Text(condition.status, style=_style(condition)), condition.reason,
            condition.message,
        )  # fmt: skip
    history = Table("TIME", "DECISION", "RULE", "WHY", box=None, pad_edge=False)
    for entry in status.history:
        history.add_row(entry.time, entry.reason, entry.rule or UNKNOWN, entry.message)
    parts: list[RenderableType] = [head, Text(), conditions]
    if status.history:
        parts += [Text(), history]
    if simulated(service):
        parts += [Text(), Text(SIMULATED_NOTE, style="yellow")]
    return Group(*parts)


def standing(service: SLMService) -> str:
    """Where the search stands, in one sentence."""
    return stands_at(service.status) or "the operator has not seen this service yet; does it run?"


def stands_at(status: SLMServiceStatus) -> str | None:
    """The same of a status; None when it does not say."""
    calibrated = status.condition("Calibrated")
    if status.calibration is None or calibrated is None:
        return None
    return f"{status.calibration.phase}: {calibrated.message}"


def findings(points: Sequence[FrontierPoint]) -> RenderableType:
    """The measured points as table and picture, and what became of each."""
    return Group(points_table(points), Text(), frontier(points), Text(), reasons(points))


def points_table(points: Sequence[FrontierPoint]) -> Table:
    """One row for each measured point; 80 columns hold it."""
    title = f"Measured points ({SIMULATED})" if any(p.simulated for p in points) else None
    table = Table(
        title=title,
        title_justify="left",
        box=None,
        pad_edge=False,
        collapse_padding=True,
        header_style="bold",
    )
    table.add_column("", no_wrap=True)
    for name in ("REPLICAS", "LAYOUT", "BATCH", "TOK/S", "W", "J/TOKEN", "TTFT P95", "ITL P95"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("FRONTIER", no_wrap=True)
    for point in points:
        table.add_row(
            "◆" if point.chosen else "",
            str(point.replicas_per_pack),
            str(point.layout_replicas),
            str(point.max_num_seqs),
            f"{point.output_tokens_per_second:,} ± {point.confidence_tokens_per_second:,}",
            _whole(point.power_watts),
            joules(point),
            point.ttft_p95 or UNKNOWN,
            point.itl_p95 or UNKNOWN,
            "yes" if point.on_frontier else "no",
            style="bold" if point.chosen else "",
        )
    return table


def reasons(points: Sequence[FrontierPoint]) -> RenderableType:
    """What became of each point, and why."""
    grid = Table.grid(padding=(0, 1))
    for point in points:
        grid.add_row("◆" if point.chosen else " ", f"{point_name(point)}:", point.why)
    return grid


def frontier(points: Sequence[FrontierPoint]) -> Text:
    """The points as a picture of at most 80 columns."""
    return Text(plot(picture(points)), no_wrap=True)


def joules(figures: Figures) -> str:
    energy = figures.microjoules_per_output_token
    return UNKNOWN if energy is None else f"{energy / 1e6:.4f}"


def point_name(point: JudgedPoint) -> str:
    plural = "s" if point.replicas_per_pack > 1 else ""
    text = f"{point.replicas_per_pack} replica{plural} x {point.max_num_seqs}"
    if point.layout_replicas == point.replicas_per_pack:
        return text
    return f"{text} (of {point.layout_replicas} started)"


def point_figures(point: FrontierPoint) -> str:
    """A point's figures in words, marked when they are simulated."""
    text = (
        f"{point.output_tokens_per_second:,} ± {point.confidence_tokens_per_second:,} tok/s"
        f"{f', {point.power_watts:,} W' if point.power_watts is not None else ', power unknown'}"
    )
    if point.microjoules_per_output_token is not None:
        text += f", {joules(point)} J/token"
    return f"{text} ({SIMULATED})" if point.simulated else text


def measuring(status: SLMServiceStatus) -> str | None:
    """What is being measured now, in words; None when nothing is."""
    calibrated = status.condition("Calibrated")
    if status.calibration is None or status.calibration.measuring is None or calibrated is None:
        return None
    now = status.calibration.measuring
    seconds = f"a window of at least {now.window_seconds} s since {now.since}"
    if calibrated.reason == status.calibration.phase:
        return f"{calibrated.message} ({seconds})"
    name = f"{now.replicas_per_pack} of {now.layout_replicas} replicas x {now.max_num_seqs}"
    return f"measuring {name} ({seconds}); {calibrated.reason}: {calibrated.message}"


def _operating_point(service: SLMService) -> tuple[str, str, str]:
    point = service.status.operating_point
    if point is None:
        return UNKNOWN, UNKNOWN, UNKNOWN
    return f"{point.output_tokens_per_second:,}", _whole(point.power_watts), joules(point)


def _runs(service: SLMService) -> str:
    point = service.status.operating_point
    if point is None:
        return "no operating point yet"
    figures = f"{point.output_tokens_per_second:,} output tok/s"
    if point.power_watts is not None:
        figures += f" at {point.power_watts:,} W, {joules(point)} J/token"
    latency = f"TTFT p95 {point.ttft_p95 or UNKNOWN}, ITL p95 {point.itl_p95 or UNKNOWN}"
    mark = f" ({SIMULATED})" if simulated(service) else ""
    return f"{point.replicas_per_pack} x {point.max_num_seqs}: {figures}; {latency}{mark}"


def _whole(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def _style(condition: Condition) -> str:
    return {"True": "green", "False": "red"}.get(condition.status, "yellow")
