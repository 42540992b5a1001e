"""What a pass makes of a rollout: the canary stays or goes, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from slm_operator.api.status import RolloutStatus
from slm_operator.decide.canary import Judgement, advance, starts_well
from slm_operator.decide.conditions import pack_trouble
from slm_operator.decide.followers import template_trouble
from slm_operator.decide.rollout import Rollout
from slm_operator.decide.said import Said
from slm_operator.decide.snapshot import Pack, Progressed, Snapshot, Trouble

PACK_STEPS = 100
"""More than the steps of one pack's start."""


@dataclass(frozen=True)
class Step:
    status: RolloutStatus
    said: Said
    """The condition Progressing."""
    told: tuple[str, str] | None = None
    """Reason and message of an event; what ends badly is told by its condition."""
    gone_back: bool = False
    """Whether packs that followed the canary made this pass go back to the template before."""
    progressed: Progressed | None = None


def step(
    rollout: Rollout, snapshot: Snapshot, judgement: Judgement, exploring: Pack | None = None
) -> Step:
    """What follows from what the canary is worth, and from how those fare that follow it.
    ``snapshot``: with the spec as it is; ``exploring``: tries layouts, some of which fail."""
    trouble = pack_trouble(rollout.canary) if rollout.canary is not None else None
    status = _settled(rollout, snapshot, judgement, trouble)
    if rollout.former is not None and _stands_still(status, rollout, snapshot):
        waited = [p for p in rollout.served if not p.ready and p is not exploring]
        if cause := template_trouble(waited):
            failed = (
                f"a pack that followed the first one did not serve within "
                f"{snapshot.service.rollout.progress_deadline} "
                f"(spec.rollout.progressDeadline): {cause.reason}: {cause.message}"
            )
            back = {"stable": rollout.previous, "previous": None}
            status = _rolled_back(status, failed).model_copy(update=back)
    said = _said(status, rollout, snapshot, judgement, trouble)
    gone_back = rollout.phase == "Progressing" and status.phase == "RolledBack"
    told = _told(snapshot.service.status.rollout, status, said)
    return Step(status, said, told, gone_back, _progressed(status, snapshot))


def _settled(
    rollout: Rollout, snapshot: Snapshot, judgement: Judgement, trouble: Trouble | None
) -> RolloutStatus:
    service, before = snapshot.service, snapshot.service.status.rollout
    again = before is not None and before.attempt == rollout.attempt
    told = again or rollout.former is not None
    status = RolloutStatus(
        phase=rollout.phase,
        attempt=rollout.attempt,
        updated_packs=sum(p.template_hash == rollout.wanted.hash for p in rollout.alive),
        places=rollout.templates.places,
        why=before.why if told and before is not None else "",
        stable=rollout.stable,
        previous=rollout.previous,
    )
    if rollout.phase not in ("Canary", "Progressing") or _sleeps(snapshot):
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
    if not failed and _is_late(status, snapshot) and not starts_well(rollout.canary):
        cause = f"{trouble.reason}: {trouble.message}" if trouble else "it was not ready"
        if judgement.measures:
            cause = "it served, and could not be measured"
        failed = (
            f"the first pack got no further for {service.rollout.progress_deadline} "
            f"(spec.rollout.progressDeadline): {cause}"
        )
    if failed:
        return _rolled_back(status, failed)
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


def _sleeps(snapshot: Snapshot) -> bool:
    """Whether no pack is wanted: then none can come, so that no deadline passes."""
    return snapshot.service.wanted_packs == 0


def _rolled_back(status: RolloutStatus, why: str) -> RolloutStatus:
    return status.model_copy(
        update={"phase": "RolledBack", "why": why, "progress": 0, "progressed_at": None}
    )


def _stands_still(status: RolloutStatus, rollout: Rollout, snapshot: Snapshot) -> bool:
    """Whether none of the packs that are replaced has got further within the deadline."""
    waited = [p for p in rollout.served if not p.ready]
    return _is_late(status, snapshot) and not any(starts_well(p) for p in waited)


def _is_late(status: RolloutStatus, snapshot: Snapshot) -> bool:
    passed_by_seconds = snapshot.seconds - _progressed(status, snapshot).since_seconds
    return passed_by_seconds > snapshot.service.rollout.progress_deadline_seconds


def _progressed(status: RolloutStatus, snapshot: Snapshot) -> Progressed:
    before = snapshot.memory.progressed
    now = Progressed(status.attempt, status.progress, status.progressed_at, snapshot.seconds)
    if before is None or replace(now, since_seconds=before.since_seconds) != before:
        return now
    return before


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
            f"{status.why.rstrip('.')}. All packs keep the template before, or get it back one by "
            "one; change the spec, or take the change back with "
            f"`slmctl rollout undo {snapshot.service.name}`"
        )
        return Said(kind, "False", "RolledBack", text)
    if status.phase == "Paused":
        text = f"spec.rollout.paused is true: {count}; `slmctl rollout resume` goes on"
        return Said(kind, "Unknown", "RolloutPaused", text)
    if _sleeps(snapshot):
        text = (
            "no pack runs, so the changed template waits: one pack is tried with it beside the "
            "one that the next request starts"
        )
        return Said(kind, "True", "ScaledToZero", text)
    if status.phase == "Canary":
        doing = "is measured" if judgement.measures else "starts"
        waits = f"; {trouble.reason}: {trouble.message}" if trouble else ""
        reason = "CanaryMeasuring" if judgement.measures else "CanaryStarting"
        text = f"one pack with the changed template {doing}, the others follow if it holds{waits}"
        return Said(kind, "True", reason, text)
    if _stands_still(status, rollout, snapshot):
        waited = [p for p in rollout.served if not p.ready]
        cause = next((t for p in waited if (t := pack_trouble(p))), None)
        text = (
            f"{count}, and none got further for {snapshot.service.rollout.progress_deadline} "
            "(spec.rollout.progressDeadline); "
        )
        text += (
            f"{cause.reason}: {cause.message}"
            if cause
            else "the reason of Ready, and the packs' logs, say why"
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
