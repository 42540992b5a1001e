"""What a pass makes of a rollout: the canary stays or goes, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from slm_operator.api.status import RolloutStatus
from slm_operator.decide.canary import Judgement, advance, starts_well
from slm_operator.decide.conditions import pack_trouble
from slm_operator.decide.rollout import Rollout
from slm_operator.decide.said import Said
from slm_operator.decide.snapshot import Snapshot, Trouble

PACK_STEPS = 100
"""More than the steps of one pack's start."""


@dataclass(frozen=True)
class Step:
    status: RolloutStatus
    said: Said
    """The condition Progressing."""
    told: tuple[str, str] | None = None
    """Reason and message of an event; what ends badly is told by its condition."""


def step(rollout: Rollout, snapshot: Snapshot, judgement: Judgement) -> Step:
    """What follows from what the canary is worth. ``snapshot``: with the spec as it is."""
    trouble = pack_trouble(rollout.canary) if rollout.canary is not None else None
    status = _settled(rollout, snapshot, judgement, trouble)
    said = _said(status, rollout, snapshot, judgement, trouble)
    return Step(status, said, _told(snapshot.service.status.rollout, status, said))


def _settled(
    rollout: Rollout, snapshot: Snapshot, judgement: Judgement, trouble: Trouble | None
) -> RolloutStatus:
    service, before = snapshot.service, snapshot.service.status.rollout
    again = before is not None and before.attempt == rollout.attempt
    status = RolloutStatus(
        phase=rollout.phase,
        attempt=rollout.attempt,
        updated_packs=sum(p.template_hash == rollout.wanted.hash for p in rollout.alive),
        places=rollout.templates.places,
        why=before.why if again and before is not None else "",
        stable=rollout.stable,
        previous=rollout.previous,
    )
    if rollout.phase not in ("Canary", "Progressing"):
        return status
    came = _progress(rollout)
    resumed = not again or before is None or before.phase not in ("Canary", "Progressing")
    if before is None or resumed or came > before.progress or before.progressed_at is None:
        progressed, progressed_at = came, snapshot.now
    else:
        progressed, progressed_at = before.progress, before.progressed_at
    status = status.model_copy(update={"progress": progressed, "progressed_at": progressed_at})
    if rollout.phase == "Progressing":
        return status
    failed = judgement.failed
    passed_by = _time(snapshot.now) - _time(progressed_at)
    deadline = timedelta(seconds=service.rollout.progress_deadline_seconds)
    if not failed and passed_by > deadline and not starts_well(rollout.canary):
        cause = f"{trouble.reason}: {trouble.message}" if trouble else "it was not ready"
        if judgement.measures:
            cause = "it served, and could not be measured"
        failed = (
            f"the first pack got no further for {service.rollout.progress_deadline} "
            f"(spec.rollout.progressDeadline): {cause}"
        )
    if failed:
        return status.model_copy(
            update={"phase": "RolledBack", "why": failed, "progress": 0, "progressed_at": None}
        )
    if judgement.passed:
        return status.model_copy(
            update={
                "phase": "Progressing",
                "why": judgement.figures,
                "stable": rollout.wanted,
                "previous": rollout.stable,
                "progress": 0,
                "progressed_at": snapshot.now,
            }
        )
    return status


def _said(
    status: RolloutStatus,
    rollout: Rollout,
    snapshot: Snapshot,
    judgement: Judgement,
    trouble: Trouble | None,
) -> Said:
    """The condition, in the words of a Deployment where it has them."""
    kind, alive = "Progressing", len(rollout.alive)
    count = f"{status.updated_packs} of {alive} packs run the spec's template"
    if status.phase == "Complete":
        text = "all packs run what spec.model, spec.engine and spec.gpu ask for"
        return Said(kind, "True", "RolloutComplete", text)
    if status.phase == "RolledBack":
        text = (
            f"{status.why.rstrip('.')}. The packs stay with the template before; change the spec, "
            f"or take the change back with `slmctl rollout undo {snapshot.service.name}`"
        )
        return Said(kind, "False", "RolledBack", text)
    if status.phase == "Paused":
        text = f"spec.rollout.paused is true: {count}; `slmctl rollout resume` goes on"
        return Said(kind, "Unknown", "RolloutPaused", text)
    if status.phase == "Canary":
        doing = "is measured" if judgement.measures else "starts"
        waits = f"; {trouble.reason}: {trouble.message}" if trouble else ""
        reason = "CanaryMeasuring" if judgement.measures else "CanaryStarting"
        text = f"one pack with the changed template {doing}, the others follow if it holds{waits}"
        return Said(kind, "True", reason, text)
    since, now = status.progressed_at or snapshot.now, snapshot.now
    deadline = timedelta(seconds=snapshot.service.rollout.progress_deadline_seconds)
    waited = [p for p in rollout.served if not p.ready]
    if _time(now) - _time(since) > deadline and not any(starts_well(p) for p in waited):
        text = (
            f"{count}, and none got further for {snapshot.service.rollout.progress_deadline} "
            "(spec.rollout.progressDeadline); the reason of Ready, and the packs' logs, say why"
        )
        return Said(kind, "False", "ProgressDeadlineExceeded", text)
    return Said(kind, "True", "PacksUpdating", f"{count}; at most one is replaced at a time")


def _progress(rollout: Rollout) -> int:
    if rollout.phase == "Canary":
        return advance(rollout.canary)
    ready = [p for p in rollout.served if p.ready]
    return len(ready) * PACK_STEPS + max(
        (advance(p) for p in rollout.served if not p.ready), default=0
    )


def _told(before: RolloutStatus | None, after: RolloutStatus, said: Said) -> tuple[str, str] | None:
    """The first packs are no rollout."""
    if before is None or before.phase == after.phase or after.previous is None:
        return None
    if before.phase == "Canary" and after.phase == "Progressing":
        return "CanaryPassed", after.why
    return (said.reason, said.message) if after.phase == "Complete" else None


def _time(timestamp: str) -> datetime:
    return datetime.fromisoformat(timestamp)
