"""What goes with a service's packs, as it was decided."""

from __future__ import annotations

from slm_operator.decide.decision import Decision
from slm_operator.decide.pods import packs_with_a_place
from slm_operator.decide.snapshot import Snapshot
from slm_operator.render import activation, children


def companions(
    snapshot: Snapshot, decision: Decision, token: str, *, refused: bool
) -> tuple[children.Object, ...]:
    """``refused``: the API server has not let packs be made for long."""
    service, desired = snapshot.service, decision.status.desired_packs or 0
    placed = packs_with_a_place(snapshot.packs, decision.pods, desired, refused, snapshot.now)
    return (
        children.token_secret(service, token),
        children.front_service(service),
        children.headless_service(service),
        children.disruption_budget(service, placed),
        *_slices(snapshot, decision),
    )


def _slices(snapshot: Snapshot, decision: Decision) -> list[children.Object]:
    """Once a service has a port it has them; while nobody knows where the activator is, what is
    there stays. Without an activator nobody is led there."""
    service, seen, port = snapshot.service, snapshot.activation, decision.status.activator_port
    if port is None or (seen is not None and not seen.address):
        return []
    address = seen.address if seen is not None else ""
    return activation.activator_slices(service, address, port, decision.through_activator)
