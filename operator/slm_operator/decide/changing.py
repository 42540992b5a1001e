"""What is said while packs change their layout, and of one that does not come to serve in it."""

from __future__ import annotations

from dataclasses import replace

from slm_operator.decide.calibrate import Calibration
from slm_operator.decide.canary import starts_well
from slm_operator.decide.conditions import pack_trouble
from slm_operator.decide.plans import Plans
from slm_operator.decide.said import Said
from slm_operator.decide.snapshot import Moving, Pack, Snapshot
from slm_operator.pareto.search import Measure

BESIDE = ("CanaryStarting", "CanaryMeasuring", "RolloutPaused")
"""What is said of a rollout while packs of the template before serve, and may change their layout.
"""


def moving(found: Plans, explorer: Pack | None, snapshot: Snapshot) -> tuple[Moving, ...]:
    """Packs that left a layout for another and do not run it yet. One that never ran the other may
    have just come, and one that ran it may have lost a replica: neither is held up in a change."""
    before = {p.uid: since for p, since in _on_their_way(snapshot)}
    before |= {p.uid: snapshot.seconds for p in found.restarted}
    if explorer is not None:
        before.pop(explorer.uid, None)
    return tuple(Moving(uid, since) for uid, since in before.items())


def _on_their_way(snapshot: Snapshot) -> list[tuple[Pack, float]]:
    """Of those that left a layout before this pass, the ones that are not there yet; since when."""
    since = {m.uid: m.since_seconds for m in snapshot.memory.moving}
    return [
        (p, since[p.uid])
        for p in snapshot.packs
        if p.uid in since
        and not (p.terminating or p.ended)
        and not (p.agent is not None and p.agent.settled)
    ]


def progressing(
    rollout: Said, found: Plans, calibration: Calibration, snapshot: Snapshot, one_template: bool
) -> Said:
    """The condition: what is said of the rollout, unless there is more to say of layouts.
    ``one_template``: whether all packs run the spec's."""
    said = _said(found, calibration, snapshot)
    if said is None:
        return rollout
    if one_template and rollout.reason in ("RolloutComplete", "PacksUpdating"):
        return said
    if said.status == "False" and rollout.reason in BESIDE:
        return replace(said, message=f"{said.message}. {rollout.message}")
    return rollout


def _said(found: Plans, calibration: Calibration, snapshot: Snapshot) -> Said | None:
    """Nothing while one explores, whose layouts change all the time."""
    if isinstance(calibration.step, Measure):
        return None
    for pack, why in _held_up(found, snapshot):
        waiting = f"{_names(found.waiting)} keep the layout before until " if found.waiting else ""
        text = (
            f"{waiting}{pack.name} {'serves' if waiting else 'has to serve'} in the new one; it "
            f"does not: {why.rstrip('.')}. Where that stays, `kubectl delete pod {pack.name}` "
            "makes it anew"
        )
        return Said("Progressing", "False", "LayoutHeldUp", text)
    if not found.waiting:
        return None
    waiting, changing = (_names(packs) for packs in (found.waiting, found.changing))
    text = f"one pack at a time changes its layout: {changing} does, {waiting} serve as before"
    return Said("Progressing", "True", "LayoutChanging", text)


def _held_up(found: Plans, snapshot: Snapshot) -> list[tuple[Pack, str]]:
    """Packs that others wait for, or that left a layout for another, and why they do not serve."""
    rollout, on_their_way = snapshot.service.rollout, _on_their_way(snapshot)
    packs = [pack for pack, _ in on_their_way]
    packs += [pack for pack in found.changing if found.waiting and pack not in packs]
    held = [(p, f"{t.reason}: {t.message}") for p in packs if (t := pack_trouble(p))]
    for pack, since in on_their_way:
        late = snapshot.seconds - since > rollout.progress_deadline_seconds
        if late and not pack_trouble(pack) and not starts_well(pack):
            deadline = f"{rollout.progress_deadline} (spec.rollout.progressDeadline)"
            held.append((pack, f"it tells no cause, and {deadline} are over"))
    return held


def _names(packs: tuple[Pack, ...]) -> str:
    return ", ".join(pack.name for pack in packs)
