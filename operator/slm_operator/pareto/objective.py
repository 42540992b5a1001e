"""What the user asks for: which point is best, and which points are out of the question."""

from __future__ import annotations

from collections.abc import Iterator
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
    preemptions_per_request: float | None = None

    def broken_by(self, point: OperatingPoint) -> Ruling | None:
        """The first limit that ``point`` breaks, with both numbers."""
        return next((said for excess, said in self._held_against(point) if excess > 0), None)

    def excess(self, point: OperatingPoint) -> float:
        """By what share ``point`` exceeds the limit that it breaks most; 0 when it keeps all."""
        return max((0.0, *(excess for excess, _ in self._held_against(point))))

    def _held_against(self, point: OperatingPoint) -> Iterator[tuple[float, Ruling]]:
        """Of each limit that bounds something known: the excess as a share of it, and what it says
        when it is broken."""
        for name, quantity, value, limit in (
            (
                "TTFT p95",
                Quantity.TTFT_P95_MICROSECONDS,
                point.ttft_p95_seconds,
                self.ttft_p95_seconds,
            ),
            ("ITL p95", Quantity.ITL_P95_MICROSECONDS, point.itl_p95_seconds, self.itl_p95_seconds),
            ("ITL p99", Quantity.ITL_P99_MICROSECONDS, point.itl_p99_seconds, self.itl_p99_seconds),
        ):
            if value is not None and limit is not None:
                text = f"{name} {value * 1000:,.1f} ms exceeds the limit of {limit * 1000:,.1f} ms"
                said = ruling(Rule.LIMIT_BROKEN, quantity, point, limit * 1e6, text)
                yield value / limit - 1, said
        power, budget = point.power_watts, self.power_watts
        if power is not None and budget is not None:
            text = f"{power:,.0f} W exceeds the power budget of {budget:,.0f} W"
            said = ruling(Rule.LIMIT_BROKEN, Quantity.POWER_WATTS, point, budget, text)
            yield power / budget - 1, said
        lost, most = point.preemptions_per_request, self.preemptions_per_request
        if lost is not None and most is not None:
            text = f"{lost:.2f} preemptions a request exceed the limit of {most:.2f}"
            quantity = Quantity.PREEMPTIONS_PER_HUNDRED_REQUESTS
            said = ruling(Rule.LIMIT_BROKEN, quantity, point, most * 100, text)
            yield lost / most - 1 if most else lost, said


NO_LIMITS = Limits()
