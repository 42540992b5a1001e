"""PURE: a GPU's health from what its driver tells."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from slm_worker.gpu.xid import explain
from slm_worker.wire import GpuHealth

State = Literal["Degraded", "Unresponsive", "Lost"]

EXHAUSTED_RETIRED_PAGES = 60
"""From so many on, NVIDIA takes a GPU back (Dynamic Page Retirement, its RMA policy); no more than
64 can be retired."""


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong: the message holds cause and remedy, and nothing that changes by itself."""

    state: State
    reason: str
    message: str


@dataclass(frozen=True)
class Signs:
    """What a driver that answers says about errors. None: not on this GPU, or not told now."""

    uncorrected_memory_errors: int | None = None
    """Since the driver was loaded."""
    row_remap_pending: bool | None = None
    row_remap_failed: bool | None = None
    retired_pages: int | None = None
    """Over the GPU's life, for both causes. GPUs before Ampere; later ones remap rows."""
    page_retirement_pending: bool | None = None
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """What should be readable here and was not, and the driver's word for why."""


def diagnose(
    signs: Signs, critical_xids: Collection[int], throttling: Collection[str]
) -> Diagnosis | None:
    """What is wrong with a GPU that answers, the worst first; None for a healthy one.

    ``critical_xids``: since the driver was opened; ``throttling``: names of recent reasons.
    """
    for found in (
        _memory_worn_out(signs),
        _reported(critical_xids),
        _memory_errors(signs),
        _slowed_down(throttling),
    ):
        if found is not None:
            return found
    if signs.unreadable:
        told = ", ".join(f"{what} ({why})" for what, why in sorted(signs.unreadable.items()))
        return Diagnosis(
            "Degraded",
            "PartlyUnreadable",
            f"the driver fails to tell {told}: look at the node's kernel log if it lasts.",
        )
    return None


def next_health(before: GpuHealth, found: Diagnosis | None, now_seconds: float) -> GpuHealth:
    """Health by what was found now; the same trouble keeps the time at which it began."""
    if found is None:
        return GpuHealth()
    same = (before.state, before.reason) == (found.state, found.reason)
    return GpuHealth(
        state=found.state,
        reason=found.reason,
        message=found.message,
        since_seconds=before.since_seconds if same else now_seconds,
    )


def _memory_worn_out(signs: Signs) -> Diagnosis | None:
    if signs.row_remap_failed:
        return Diagnosis(
            "Degraded",
            "RowRemapFailed",
            "a faulty row of its memory could not be replaced by a spare one: replace the GPU.",
        )
    if (signs.retired_pages or 0) >= EXHAUSTED_RETIRED_PAGES:
        return Diagnosis(
            "Degraded",
            "PageRetirementExhausted",
            f"{EXHAUSTED_RETIRED_PAGES} or more pages of its memory are faulty: replace the GPU.",
        )
    return None


def _reported(critical_xids: Collection[int]) -> Diagnosis | None:
    if not critical_xids:
        return None
    told = "; ".join(explain(xid) for xid in critical_xids)
    return Diagnosis("Degraded", "XidCritical", f"the driver reported {told}.")


def _memory_errors(signs: Signs) -> Diagnosis | None:
    if signs.uncorrected_memory_errors:
        return Diagnosis(
            "Degraded",
            "UncorrectedMemoryErrors",
            "since the driver was loaded its memory had errors that ECC could not correct: drain "
            "the node and reset the GPU, and replace it if they come back.",
        )
    pending = "faulty memory will be taken out of use at the next reset: drain the node and reset "
    if signs.row_remap_pending:
        return Diagnosis("Degraded", "RowRemapPending", f"{pending}the GPU when it suits.")
    if signs.page_retirement_pending:
        return Diagnosis("Degraded", "PageRetirementPending", f"{pending}the GPU when it suits.")
    return None


def _slowed_down(throttling: Collection[str]) -> Diagnosis | None:
    if "HwPowerBrakeSlowdown" in throttling:
        return Diagnosis(
            "Degraded",
            "PowerBrake",
            "the node's power supply made the GPU slow down: look at the supply and its limits.",
        )
    if {"HwThermalSlowdown", "SwThermalSlowdown"} & set(throttling):
        return Diagnosis(
            "Degraded",
            "ThermalSlowdown",
            "heat holds its clocks down: look at the node's cooling.",
        )
    if "HwSlowdown" in throttling:
        return Diagnosis(
            "Degraded",
            "HardwareSlowdown",
            "the board halved its clocks or worse: look at the node's power and cooling.",
        )
    return None
