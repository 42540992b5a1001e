"""The yardstick: packs by someone who knows the curve and all that will arrive.

It starts a pack exactly so early that it is ready when it is needed, and takes it away when nobody
needs it for the stabilisation period that binds every policy of the service. How full it may drive
packs it learns by trying, since it knows how every try ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from slm_operator.pareto.demand import PackCost
from slm_operator.simulate.seen import Seen
from slm_operator.simulate.trace import Request

STRETCH_SECONDS = 30.0
"""Work is averaged over it: what arrives within is spread by the batches themselves."""


class OraclePolicy:
    def __init__(
        self,
        requests: Sequence[Request],
        cost: PackCost,
        utilization: float,
        start_seconds: float,
        stabilization_seconds: float,
    ) -> None:
        self.period_seconds = 15.0
        self._needs = _needs(requests, cost, utilization)
        self._start_seconds = start_seconds
        self._stabilization_seconds = stabilization_seconds

    def wanted(self, seen: Seen) -> int:
        return self.at(seen.now_seconds)

    def at(self, now_seconds: float) -> int:
        """The most that is needed from a stabilisation period ago until a pack asked for now, or
        at the next decision, could be ready."""
        first = max(0, int((now_seconds - self._stabilization_seconds) / STRETCH_SECONDS))
        ahead = now_seconds + self._start_seconds + self.period_seconds
        last = min(len(self._needs) - 1, int(ahead / STRETCH_SECONDS))
        return max(self._needs[min(first, last) : last + 1])


def _needs(requests: Sequence[Request], cost: PackCost, utilization: float) -> list[int]:
    work = [0.0] * (int(requests[-1].at_seconds / STRETCH_SECONDS) + 1)
    for request in requests:
        index = int(request.at_seconds / STRETCH_SECONDS)
        work[index] += cost.seconds(request.prompt_tokens, request.output_tokens)
    return [max(1, math.ceil(seconds / STRETCH_SECONDS / utilization)) for seconds in work]
