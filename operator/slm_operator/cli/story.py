"""What happened between two looks at a service, a line for each. Pure."""

from __future__ import annotations

from slm_operator.api.status import SLMServiceStatus
from slm_operator.cli.tables import point_figures, point_name

DECISIONS = ("KneeFound", "KneeRecommended", "SearchReopened", "LayoutFailed")
"""The rest of the history says which point comes next, which the measuring line does too."""


def news(before: SLMServiceStatus, after: SLMServiceStatus) -> list[str]:
    """Points measured, decisions taken, what is measured now, and why the service is not ready."""
    known = {(p.layout_replicas, p.replicas_per_pack, p.max_num_seqs, p.measured_at)
             for p in before.frontier}  # fmt: skip
    lines = [
        f"measured {point_name(p)}: {point_figures(p)}"
        for p in after.frontier
        if (p.layout_replicas, p.replicas_per_pack, p.max_num_seqs, p.measured_at) not in known
    ]
    lines += [
        f"decided {entry.reason}: {entry.message}"
        for entry in after.history
        if entry not in before.history and entry.reason in DECISIONS
    ]
    started = _measuring(after)
    if started is not None and started != _measuring(before):
        lines.append(started)
    waiting = starting(after)
    if waiting is not None and waiting != starting(before):
        lines.append(waiting)
    trouble = _trouble(after)
    if trouble is not None and trouble != _trouble(before):
        lines.append(trouble)
    return lines


def starting(status: SLMServiceStatus) -> str | None:
    """How many replicas of what is to be measured are ready, until all are."""
    now = status.calibration.measuring if status.calibration else None
    if now is None or status.ready_replicas >= now.layout_replicas:
        return None
    return f"starting replicas: {status.ready_replicas} of {now.layout_replicas} ready"


def _measuring(status: SLMServiceStatus) -> str | None:
    now = status.calibration.measuring if status.calibration else None
    if now is None:
        return None
    plural = "s" if now.replicas_per_pack > 1 else ""
    text = f"measuring {now.replicas_per_pack} replica{plural} x {now.max_num_seqs}"
    if now.layout_replicas != now.replicas_per_pack:
        text += f" (of {now.layout_replicas} started)"
    return f"{text}, at least {now.window_seconds} s"


def _trouble(status: SLMServiceStatus) -> str | None:
    ready = status.condition("Ready")
    if ready is None or ready.status == "True":
        return None
    return f"not ready: {ready.reason}: {ready.message}"
