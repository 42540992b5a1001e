"""What a load will be some steps ahead, and how wrong that usually is.

Holt's linear method with a damped trend (Gardner and McKenzie, Management Science 31, 1985; Hyndman
and Athanasopoulos, Forecasting: Principles and Practice, 8.2). It has two smoothing constants,
needs no season, and does not run away: far ahead the trend fades. The error is that of the same
forecasts made earlier in the same series, so that a quiet load gets little headroom and a wild
one much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

LEVEL = 0.3
"""Weight of the newest value in the level."""
TREND = 0.1
"""Weight of the newest change in the trend. Both are Holt's alpha and beta, at the lower end of
what is usual (0.1 to 0.3): a load of single requests is noisy."""
DAMPING = 0.95
"""What is left of the trend a step later; 0.8 to 0.98 is usual."""
FORGETTING = 0.98
"""Weight of an error a step later: the last fifty steps make most of it."""


@dataclass(frozen=True)
class Forecast:
    """In the unit of the series."""

    mean: float
    error: float
    """Root mean square of how far below the truth such forecasts were lately; overestimates count
    as none, since they cost no request."""


def forecast(values: Sequence[float], steps: int) -> Forecast:
    """The mean of the next ``steps`` >= 1 values of an evenly spaced series, oldest first.

    Raises ValueError without a value.
    """
    if not values:
        raise ValueError("a forecast needs at least one value")
    level, trend = values[0], 0.0
    made: list[float] = []
    squares, weights = 0.0, 0.0
    for index, value in enumerate(values):
        if index >= steps:
            truth = fmean(values[index - steps + 1 : index + 1])
            missed = max(0.0, truth - made[index - steps])
            squares = FORGETTING * squares + missed * missed
            weights = FORGETTING * weights + 1.0
        before = level
        level = LEVEL * value + (1 - LEVEL) * (level + DAMPING * trend)
        trend = TREND * (level - before) + (1 - TREND) * DAMPING * trend
        made.append(_ahead(level, trend, steps))
    return Forecast(mean=made[-1], error=math.sqrt(squares / weights) if weights else 0.0)


def _ahead(level: float, trend: float, steps: int) -> float:
    """A falling trend does not count: capacity is needed until the load has fallen."""
    if trend <= 0:
        return max(0.0, level)
    return level + trend * fmean(
        DAMPING * (1 - DAMPING**step) / (1 - DAMPING) for step in range(1, steps + 1)
    )
