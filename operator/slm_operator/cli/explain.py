"""``slmctl explain``: an account of a service's decisions for a terminal. Pure, but for ages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from slm_operator.api.models import SLMService
from slm_operator.api.status import (
    Compared,
    FailedLayout,
    FrontierPoint,
    HistoryEntry,
    JudgedPoint,
    WorkloadStatus,
)
from slm_operator.cli import tables
from slm_operator.cli.account import Account
from slm_operator.cli.quantities import both
from slm_operator.decide.explanation import decision_id
from slm_operator.pareto.points import Probe

INDENT = (0, 0, 0, 2)
RULES = "docs/explaining.md tells each rule in words."


def text(told: Account, now: datetime) -> RenderableType:
    """The whole account: what runs first, the history last."""
    parts: list[RenderableType] = [_head(told, now)]
    if told.alternatives:
        title = "Alternatives" if told.chosen else "Measured so far"
        parts += [_title(title), *(_alternative(p) for p in told.alternatives)]
    if told.left_out:
        parts += [_title("Left out"), _list([_left_out(f) for f in told.left_out])]
    if told.would_change:
        parts += [_title("What would change the decision"), _list(told.would_change)]
    if told.history:
        parts += [_title("Decisions, the newest last"), decisions(told.service, now)]
    parts += [Text(), Text(RULES)]
    if tables.simulated(told.service):
        parts.append(Text(tables.SIMULATED_NOTE, style="yellow"))
    return Group(*parts)


def decisions(service: SLMService, now: datetime) -> RenderableType:
    """Each decision with its id, its rule, its figures and what it was chosen among."""
    return Group(
        *(
            _decision(entry, decision_id(service.uid, entry), now)
            for entry in service.status.history
        )
    )


def _head(told: Account, now: datetime) -> RenderableType:
    service, running, status = told.service, told.running, told.service.status
    rows: list[tuple[str, str]] = [
        ("Service", f"{service.namespace}/{service.name}"),
        (
            "Runs",
            f"{running.what}; {status.ready_replicas} of {status.replicas} replicas and "
            f"{status.ready_packs} of {service.wanted_packs} packs ready",
        ),
        ("Since", _when(running.since, now) if running.since else "before the decisions kept"),
    ]
    if told.chosen is not None and running.rule == told.chosen.rule:
        rows += [("Rule", _rule(told.chosen)), ("Why", told.chosen.why)]
        rows.append(("Figures", _figures(told.chosen)))
    else:
        rows += [("Rule", running.rule), ("Why", running.why)]
        if told.chosen is not None:
            rows += [
                ("Advice", told.chosen.why),
                ("Its rule", _rule(told.chosen)),
                ("Figures", _figures(told.chosen)),
            ]
    rows.append(("Asked for", ", ".join(f"{i.name} {i.value}" for i in told.asked)))
    workload = status.calibration.workload if status.calibration else None
    if workload is not None:
        rows.append(("Counts for", _requests(workload)))
    rows.append(("Waits for", told.waits_for))
    rows += [("Trouble", f"{c.type}: {c.reason}: {c.message}") for c in told.troubles] or [
        ("Trouble", "none")
    ]
    head = Table.grid(padding=(0, 2))
    for name, value in rows:
        head.add_row(Text(name, style="bold"), value)
    return head


def _requests(workload: WorkloadStatus) -> str:
    text = f"prompts of {workload.prompt_tokens:,} tokens, answers of {workload.output_tokens:,}"
    return text if workload.arrivals is None else f"{text}, {workload.arrivals.lower()} arrivals"


def _alternative(point: FrontierPoint) -> RenderableType:
    said = f"{point.rule}: {point.why}" if point.rule else point.why
    head = Text.assemble((tables.point_name(point), "bold"), f": {tables.point_figures(point)}")
    return Group(head, Padding(Text(said), INDENT))


def _left_out(failed: FailedLayout) -> str:
    layout = Probe(failed.replicas_per_pack, failed.replicas_per_pack, failed.max_num_seqs)
    return f"{layout} until {failed.until}: {failed.why}"


def _decision(entry: HistoryEntry, known_as: str, now: datetime) -> RenderableType:
    moved = f"{entry.from_ or 'nothing'} → {entry.to or 'the best that is known'}"
    head = f"{_when(entry.time, now)}  {known_as}  {entry.reason}: {moved}"
    lines = [Text(head, style="bold")]
    if entry.rule is not None:
        lines.append(Text(f"by {_rules(entry)}"))
    lines.append(Text(entry.message))
    if entry.alternatives:
        others = [f"{tables.point_name(a)} ({a.rule})" for a in entry.alternatives]
        if entry.alternatives_omitted:
            others.append(f"{entry.alternatives_omitted} more")
        lines.append(Text(f"instead of {', '.join(others)}"))
    return Group(lines[0], *(Padding(line, INDENT) for line in lines[1:]))


def _rules(entry: HistoryEntry) -> str:
    point = entry.point
    if point is None or point.rule is None:
        return str(entry.rule)
    after = "" if point.rule == entry.rule else f", after {point.rule}"
    return f"{entry.rule}{after}{_against(point.compared)}"


def _rule(point: JudgedPoint) -> str:
    return f"{point.rule}{_against(point.compared)}"


def _against(compared: Compared | None) -> str:
    return "" if compared is None else f": {both(compared)}"


def _figures(point: FrontierPoint) -> str:
    return (
        f"{tables.point_figures(point)}; TTFT p95 {point.ttft_p95 or tables.UNKNOWN}, "
        f"ITL p95 {point.itl_p95 or tables.UNKNOWN}; measured {point.measured_at}"
    )


def _when(time: str, now: datetime) -> str:
    return f"{time} ({tables.age(time, now)} ago)"


def _title(title: str) -> RenderableType:
    return Group(Text(), Text(title, style="bold underline"))


def _list(lines: Sequence[str]) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    for line in lines:
        grid.add_row("-", line)
    return grid
