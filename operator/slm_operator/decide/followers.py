"""Whether a pack that follows the canary cannot serve because of what its template says."""

from __future__ import annotations

from collections.abc import Iterable

from slm_operator.decide.snapshot import Pack, Trouble

PLACE_TROUBLES = frozenset(
    {
        "CreateContainerError",
        "DeviceFault",
        "DeviceLost",
        "DeviceUnavailable",
        "DeviceUnreadable",
        "DiskFull",
        "MPSFaulted",
        "MemoryNotSteady",
        "ModelUnreachable",
        "MpsFault",
        "MpsNotReady",
        "PortTaken",
        "RunContainerError",
        "StartRefused",
    }
)
"""Of the node, its GPU or its network: the same template serves elsewhere, and the one before would
fare no better here. docs/conditions.md has each."""


def template_trouble(packs: Iterable[Pack]) -> Trouble | None:
    """Why the first of ``packs`` does not serve for which another template is a remedy. A pack
    without a node, one whose node is silent, and one that does not answer say nothing against
    their template."""
    return next(filter(None, map(_trouble, packs)), None)


def _trouble(pack: Pack) -> Trouble | None:
    if pack.scheduling is not None or pack.node is not None:
        return None
    found, state = pack.container, pack.agent
    if found is None and state is not None and state.problem is not None:
        if state.gpu.health.state in ("Unresponsive", "Lost") or state.gpu.mps == "Faulted":
            return None
        found = Trouble(state.problem.reason, state.problem.message)
    return None if found is None or found.reason in PLACE_TROUBLES else found
