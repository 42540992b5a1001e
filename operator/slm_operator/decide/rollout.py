"""How a change of the packs' template reaches them: one is tried first, the others follow or stay.

The template that proved itself last is kept in the status, so that packs of it can be made again
while another is tried, and after it was rolled back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from pydantic import ValidationError

from slm_operator.api.models import SLMService, SLMServiceSpec
from slm_operator.api.status import RolloutStatus, TemplateStatus
from slm_operator.decide.pods import Templates, is_lost
from slm_operator.decide.snapshot import Pack, Snapshot
from slm_operator.decide.times import moment
from slm_operator.render import children

TEMPLATE_FIELDS = ("model", "engine", "gpu", "pod_template")
"""The fields of the spec that packs are rendered from."""
SURGE_PATIENCE = timedelta(seconds=60)
"""A Pod without a node for so long waits for a GPU that is not there. A cluster that adds nodes
takes minutes; then the outdated pack's GPU serves until the node is there."""


@dataclass(frozen=True)
class Rollout:
    """What packs shall be made of in this pass."""

    service: SLMService
    """With the template that packs run, but for the canary."""
    templates: Templates
    phase: str
    attempt: str
    wanted: TemplateStatus
    """That of the spec."""
    stable: TemplateStatus | None
    """The last one that proved itself."""
    previous: TemplateStatus | None
    canary: Pack | None = None
    """The one that is tried, once it is there."""
    alive: tuple[Pack, ...] = ()
    """All but those that end."""
    former: SLMService | None = None
    """While others follow a canary that passed: with the template before, to go back to."""

    @property
    def tries(self) -> bool:
        return self.phase == "Canary"

    @property
    def served(self) -> tuple[Pack, ...]:
        """Packs of the template that is served: what is measured on others says nothing of it."""
        return tuple(p for p in self.alive if p.template_hash in self.templates.current)

    @property
    def coming(self) -> tuple[Pack, ...]:
        """Packs beside those that are wanted: they need not be ready yet."""
        if self.canary is not None:
            return (self.canary,)
        if self.templates.places is not None or len(self.served) == len(self.alive):
            return ()
        return tuple(p for p in self.served if not p.ready)

    def measured(self, snapshot: Snapshot) -> Snapshot:
        """``snapshot`` without the packs of another template, and with the one that is served."""
        return replace(snapshot, service=self.service, packs=self.served)


def follow(snapshot: Snapshot, template_hash: str) -> Rollout:
    """Where the rollout stands. ``template_hash``: of what the spec asks for."""
    service, image = snapshot.service, snapshot.worker_image
    before = service.status.rollout
    wanted = TemplateStatus(hash=template_hash, worker_image=image, spec=template_fields(service))
    stable = before.stable if before else None
    previous = before.previous if before else None
    alive = tuple(p for p in snapshot.packs if not (p.terminating or p.ended))
    attempt = _attempt(service, template_hash)
    again = before is not None and before.attempt == attempt
    former = None
    if stable is not None and stable.hash != template_hash:
        former = with_template(service, stable)
    former_hash = children.template_hash(former, image) if former else ""
    paused = service.rollout.paused
    if former is None or stable is None or former_hash == template_hash:
        # The spec's own, or the same rendered otherwise, of which nothing can be rolled back.
        current = frozenset({template_hash})
        served = [p for p in alive if p.template_hash == template_hash]
        outdated = len(served) < len(alive)
        proven = stable is not None and stable.hash == template_hash
        if proven or any(p.ready for p in served):
            previous = previous if proven or stable is None else stable
            stable = wanted
        done = not outdated and (
            (before is not None and before.phase == "Complete")
            or (bool(served) and all(p.ready for p in served))
            # At zero packs nothing is left to replace.
            or (stable is not None and service.wanted_packs == 0)
        )
        phase = "Complete" if done else "Paused" if paused and outdated else "Progressing"
        places = _places(before if again else None, snapshot, served)
        templates = Templates(current, "", not paused, places if outdated else None)
        before_it = _template_before(snapshot, template_hash) if phase == "Progressing" else None
        return Rollout(
            service,
            templates,
            phase,
            attempt,
            wanted,
            stable,
            previous,
            alive=alive,
            former=before_it,
        )
    current = frozenset({stable.hash, former_hash})
    if again and before is not None and before.phase == "RolledBack":
        back = [p for p in alive if p.template_hash in current]
        places = _places(before, snapshot, back)
        return Rollout(
            former,
            Templates(current, "", not paused, places if len(back) < len(alive) else None),
            "RolledBack",
            attempt,
            wanted,
            stable,
            previous,
            alive=alive,
        )
    new = [p for p in alive if p.template_hash == template_hash]
    frees_the_same = (former.spec.gpu.kind, former.spec.gpu.resource_name) == (
        service.spec.gpu.kind,
        service.spec.gpu.resource_name,
    )
    known = before if again else None
    places = _places(known, snapshot, new) if frees_the_same else None
    return Rollout(
        former,
        Templates(current, template_hash, not paused, places),
        "Paused" if paused else "Canary",
        attempt,
        wanted,
        stable,
        previous,
        canary=new[0] if new else None,
        alive=alive,
    )


def _template_before(snapshot: Snapshot, template_hash: str) -> SLMService | None:
    """With the template before the one whose canary passed; None while packs are replaced for
    another cause, and while they are to stay as they are."""
    service, before = snapshot.service, snapshot.service.status.rollout
    if before is None or before.stable is None or before.previous is None or service.rollout.paused:
        return None
    passed = before.phase in ("Progressing", "Paused") and before.why
    if not passed or before.stable.hash != template_hash:
        return None
    former = with_template(service, before.previous)
    same = children.template_hash(former, snapshot.worker_image) == template_hash
    return None if same else former


def template_fields(service: SLMService) -> dict[str, Any]:
    """What packs are made of, as the spec writes it."""
    return service.spec.model_dump(
        mode="json", by_alias=True, exclude_none=True, include=set(TEMPLATE_FIELDS)
    )


def with_template(service: SLMService, template: TemplateStatus) -> SLMService:
    """The service as if its spec still asked for ``template``; as it is, where that is of a release
    whose fields are unknown today."""
    try:
        former = SLMServiceSpec.model_validate(template.spec)
    except ValidationError:
        return service
    changed = {name: getattr(former, name) for name in TEMPLATE_FIELDS}
    engine = changed["engine"]
    changed["engine"] = engine.model_copy(update={"image": engine.image or template.worker_image})
    return service.model_copy(update={"spec": service.spec.model_copy(update=changed)})


def _places(before: RolloutStatus | None, snapshot: Snapshot, new: Sequence[Pack]) -> int | None:
    """How many packs have a GPU, once a new one has waited too long for one. A paused rollout takes
    nobody's place anew, and keeps nobody from asking for more packs than were wanted before."""
    known = before.places if before is not None else None
    if snapshot.service.rollout.paused:
        enough = known is not None and snapshot.service.wanted_packs <= known
        return known if enough else None
    if known is not None:
        return known
    waits = [p for p in new if p.scheduling is not None and p.created]
    if not any(moment(snapshot.now) - moment(p.created) > SURGE_PATIENCE for p in waits):
        return None
    return sum(
        not (p.ended or p.scheduling is not None or is_lost(p, snapshot.now))
        for p in snapshot.packs
    )


def _attempt(service: SLMService, template_hash: str) -> str:
    """Another template is another attempt, and so is another measure for the same."""
    held_to = [
        service.rollout.model_dump(mode="json", exclude={"paused"}),
        service.autoscaling.slo and service.autoscaling.slo.model_dump(mode="json"),
    ]
    mark = hashlib.sha256(json.dumps(held_to, sort_keys=True).encode()).hexdigest()[:8]
    return f"{template_hash}-{mark}"
