"""PURE: energy that only ever grows, from a counter that may jump back or from power readings."""

from __future__ import annotations

from dataclasses import dataclass, replace

MAX_GAP_SECONDS = 5.0
"""Ten readings. Power is taken to run straight between two readings for at most so long: what a
device drew while nobody could read it for longer is unknown, and the sum takes the least."""


@dataclass(frozen=True)
class EnergyMeter:
    """A device's energy since its counter's zero, or since its first power reading.

    ``counter_millijoules`` and ``power_reading`` (watts, and the clock's seconds) are what was read
    last, ``highest_millijoules`` is the most that the counter ever said.
    """

    counted_millijoules: int = 0
    integrated_millijoules: float = 0.0
    counter_millijoules: int | None = None
    highest_millijoules: int = 0
    power_reading: tuple[float, float] | None = None

    @property
    def total_millijoules(self) -> int:
        """Never less than before."""
        return self.counted_millijoules + int(self.integrated_millijoules)

    def counted(self, raw_millijoules: int) -> EnergyMeter:
        """After the device's counter said ``raw_millijoules``.

        A counter that jumped back was reset, by a new driver mostly. What was used meanwhile is
        unknown, and the least it can be is nothing: the sum goes on from where it was. One that is
        back where it was had been misread: what exceeds its highest value alone is new.
        """
        before = self.counter_millijoules
        if before is None:
            # Within one device the first value is its own zero, unless power was integrated so far.
            gained = 0 if self.power_reading is not None else raw_millijoules
        else:
            highest = self.highest_millijoules
            since = highest if raw_millijoules >= highest else before
            gained = max(0, raw_millijoules - since)
        return replace(
            self,
            counted_millijoules=self.counted_millijoules + gained,
            counter_millijoules=raw_millijoules,
            highest_millijoules=max(self.highest_millijoules, raw_millijoules),
        )

    def integrated(self, power_watts: float, now_seconds: float) -> EnergyMeter:
        """After a power reading: the trapezoid between it and the one before.

        ``now_seconds``: of one monotonic clock. Past :data:`MAX_GAP_SECONDS` a gap adds no more.
        """
        gained_millijoules = 0.0
        if self.power_reading is not None:
            watts_before, at_seconds = self.power_reading
            elapsed_seconds = min(max(0.0, now_seconds - at_seconds), MAX_GAP_SECONDS)
            gained_millijoules = (watts_before + power_watts) / 2 * elapsed_seconds * 1000
        return replace(
            self,
            integrated_millijoules=self.integrated_millijoules + gained_millijoules,
            power_reading=(power_watts, now_seconds),
        )
