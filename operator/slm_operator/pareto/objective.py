"""What the user asks for: which point is best, and which points are out of the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slm_operator.pareto.points import OperatingPoint

ObjectiveKind = Literal["Balanced", "MaxThroughput", "MinEnergyPerToken"]


@dataclass(frozen=True)
class Objective:
    """Which point wins; the two tolerances are fractions of one.

    - ``Balanced``: the most throughput whose energy per token lies within ``max_energy_increase``
      of the least, where each added replica gains at least ``min_throughput_gain``.
    - ``MaxThroughput``: the most throughput, whatever its energy.
    - ``MinEnergyPerToken``: the least energy per token.

    Differences within the noise go to fewer replicas.
    """

    kind: ObjectiveKind = "Balanced"
    min_throughput_gain: float = 0.03
    max_energy_increase: float = 0.05


@dataclass(frozen=True)
class Limits:
    """What a point must keep to be chosen; None does not bound it.

    What a point does not tell breaks no limit: nothing is known against it.
    """

    ttft_p95_seconds: float | None = None
    itl_p95_seconds: float | None = None
    itl_p99_seconds: float | None = None
    power_watts: float | None = None

    def broken_by(self, point: OperatingPoint) -> str | None:
        """The first limit that ``point`` breaks, with both numbers."""
        for name, value, limit in (
            ("TTFT p95", point.ttft_p95_seconds, self.ttft_p95_seconds),
            ("ITL p95", point.itl_p95_seconds, self.itl_p95_seconds),
            ("ITL p99", point.itl_p99_seconds, self.itl_p99_seconds),
        ):
            if value is not None and limit is not None and value > limit:
                return f"{name} {value * 1000:,.1f} ms exceeds the limit of {limit * 1000:,.1f} ms"
        power, budget = point.power_watts, self.power_watts
        if power is not None and budget is not None and power > budget:
            return f"{power:,.0f} W exceeds the power budget of {budget:,.0f} W"
        return None


NO_LIMITS = Limits()
