"""What the user asks for: which point is best, and which points are out of the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slm_operator.pareto.points import OperatingPoint
from slm_operator.pareto.rulings import Quantity, Rule, Ruling, ruling

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

    def broken_by(self, point: OperatingPoint) -> Ruling | None:
        """The first limit that ``point`` breaks, with both numbers."""
        for name, quantity, limit_seconds in (
            ("TTFT p95", Quantity.TTFT_P95_MILLISECONDS, self.ttft_p95_seconds),
            ("ITL p95", Quantity.ITL_P95_MILLISECONDS, self.itl_p95_seconds),
            ("ITL p99", Quantity.ITL_P99_MILLISECONDS, self.itl_p99_seconds),
        ):
            value = quantity.of(point)
            if value is None or limit_seconds is None:
                continue
            limit = limit_seconds * 1000
            if value > limit:
                text = f"{name} {value:,.1f} ms exceeds the limit of {limit:,.1f} ms"
                return ruling(Rule.LIMIT_BROKEN, quantity, point, limit, text)
        power, budget = point.power_watts, self.power_watts
        if power is not None and budget is not None and power > budget:
            text = f"{power:,.0f} W exceeds the power budget of {budget:,.0f} W"
            return ruling(Rule.LIMIT_BROKEN, Quantity.POWER_WATTS, point, budget, text)
        return None


NO_LIMITS = Limits()
