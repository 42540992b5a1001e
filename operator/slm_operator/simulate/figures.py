"""What a simulated policy achieved, in the figures by which policies are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slm_operator.simulate.service import Outcome

Percentiles = tuple[float, float, float]
"""50th, 95th and 99th."""


@dataclass(frozen=True)
class ServiceLevel:
    """What a request has to get to count as served well."""

    ttft_seconds: float = 1.0
    itl_seconds: float = 0.1
    """Mean time between its tokens. A tenth of a second keeps ahead of a reader."""
    attained: float = 0.99
    """Share of all requests, lost ones among them, that shall get both."""


@dataclass(frozen=True)
class Figures:
    joules: float
    joules_per_output_token: float | None
    """None where no request was completed."""
    gpu_hours: float
    slo_attainment: float
    requests: int
    lost: int
    """By a client that waited too long, or a pack that ended with the request in it."""
    pack_changes_per_hour: float
    replica_changes_per_hour: float
    """Engines started or ended with their packs."""
    ttft_seconds: Percentiles | None
    """Of completed requests, as the next; None without any."""
    itl_seconds: Percentiles | None
    """None where no answer had a second token."""


def figures(outcome: Outcome, wanted: ServiceLevel) -> Figures:
    hours = outcome.seconds / 3600
    well = sum(
        ttft <= wanted.ttft_seconds and itl <= wanted.itl_seconds
        for ttft, itl in zip(outcome.ttft_seconds, outcome.itl_seconds, strict=True)
    )
    tokens = outcome.output_tokens
    changes = outcome.pack_changes / hours if hours else 0.0
    return Figures(
        joules=outcome.joules,
        joules_per_output_token=outcome.joules / tokens if tokens else None,
        gpu_hours=outcome.gpu_seconds / 3600,
        slo_attainment=well / outcome.requests if outcome.requests else 1.0,
        requests=outcome.requests,
        lost=outcome.lost,
        pack_changes_per_hour=changes,
        replica_changes_per_hour=changes * outcome.layout.replicas,
        ttft_seconds=_percentiles(outcome.ttft_seconds),
        itl_seconds=_percentiles([itl for itl in outcome.itl_seconds if itl]),
    )


def _percentiles(values: Sequence[float]) -> Percentiles | None:
    ordered = sorted(values)
    if not ordered:
        return None
    last = len(ordered) - 1
    fifty, ninety_five, ninety_nine = (ordered[round(share * last)] for share in (0.5, 0.95, 0.99))
    return fifty, ninety_five, ninety_nine
