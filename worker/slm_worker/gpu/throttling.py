"""PURE: what holds a GPU's clocks down, by name, and which of it means trouble."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pynvml

_NAMES: tuple[tuple[int, str], ...] = (
    (pynvml.nvmlClocksThrottleReasonApplicationsClocksSetting, "ApplicationsClocksSetting"),
    (pynvml.nvmlClocksThrottleReasonSwPowerCap, "SwPowerCap"),
    (pynvml.nvmlClocksThrottleReasonHwSlowdown, "HwSlowdown"),
    (pynvml.nvmlClocksThrottleReasonSyncBoost, "SyncBoost"),
    (pynvml.nvmlClocksThrottleReasonSwThermalSlowdown, "SwThermalSlowdown"),
    (pynvml.nvmlClocksThrottleReasonHwThermalSlowdown, "HwThermalSlowdown"),
    (pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown, "HwPowerBrakeSlowdown"),
    (pynvml.nvmlClocksThrottleReasonDisplayClockSetting, "DisplayClockSetting"),
    (pynvml.nvmlClocksThrottleReasonBoardLimit, "BoardLimit"),
    (pynvml.nvmlClocksThrottleReasonReliability, "Reliability"),
)
"""NVML's bits and names; the library's name stands behind nvmlClocksThrottleReason."""

POWER_CAP = "SwPowerCap"
"""The power limit. Many GPUs run into it whenever they are busy: it is part of what they can do."""
SLOWDOWNS = frozenset(
    {"HwSlowdown", "HwThermalSlowdown", "SwThermalSlowdown", "HwPowerBrakeSlowdown"}
)
"""Heat, the board and its supply: what a GPU serves meanwhile is less than it can."""

HOLD_SECONDS = 60.0
"""Throttling by heat comes and goes within a second. So long after it was last seen it still
counts for the GPU's health, lest that flickers."""


def throttle_names(mask: int) -> tuple[str, ...]:
    """The reasons in ``mask``, NVML's bit mask. A GPU without work is not held down by anything.

    A bit that a newer driver may set is named by its value.
    """
    remaining = mask & ~pynvml.nvmlClocksThrottleReasonGpuIdle
    names = []
    for bit, name in _NAMES:
        if remaining & bit:
            names.append(name)
            remaining &= ~bit
    while remaining:
        lowest = remaining & -remaining
        names.append(f"Bit{lowest:#x}")
        remaining &= ~lowest
    return tuple(names)


@dataclass(frozen=True)
class RecentThrottling:
    """Reasons seen within the last :data:`HOLD_SECONDS`, and when."""

    seen_at_seconds: Mapping[str, float] = field(default_factory=dict)

    def after(self, reasons: tuple[str, ...], now_seconds: float) -> RecentThrottling:
        recent = {
            reason: at_seconds
            for reason, at_seconds in self.seen_at_seconds.items()
            if now_seconds - at_seconds < HOLD_SECONDS
        }
        return RecentThrottling({**recent, **dict.fromkeys(reasons, now_seconds)})

    @property
    def reasons(self) -> frozenset[str]:
        return frozenset(self.seen_at_seconds)
