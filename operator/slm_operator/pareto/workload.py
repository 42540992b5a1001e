"""What the requests are like under which a point was measured, or that come now."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Arrivals = Literal["Steady", "Bursty"]


@dataclass(frozen=True)
class Workload:
    """Means over requests, and how they come; None while that is unknown."""

    prompt_tokens: float
    output_tokens: float
    arrivals: Arrivals | None = None

    def near(self, other: Workload, ratio: float) -> bool:
        """Whether both lengths differ by less than ``ratio`` and the arrivals are of one kind."""
        same = None in (self.arrivals, other.arrivals) or self.arrivals == other.arrivals
        return same and all(a < ratio for a in self._apart(other))

    def distance(self, other: Workload) -> float:
        """0 for the same lengths; grows with the ratio of either."""
        return sum(math.log(a) for a in self._apart(other))

    def __str__(self) -> str:
        return f"{self.prompt_tokens:,.0f} prompt and {self.output_tokens:,.0f} output tokens"

    def _apart(self, other: Workload) -> tuple[float, float]:
        return (
            apart(self.prompt_tokens, other.prompt_tokens),
            apart(self.output_tokens, other.output_tokens),
        )


def apart(one: float, other: float) -> float:
    """The larger over the smaller; lengths below one token count as one."""
    one, other = max(one, 1.0), max(other, 1.0)
    return max(one, other) / min(one, other)
