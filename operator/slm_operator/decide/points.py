"""Operating points to and from the status, where they survive the operator's restart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from slm_operator.api.status import Compared, FrontierPoint, OperatingPointStatus
from slm_operator.decide.traffic import read_workload, workload_status
from slm_operator.pareto.choice import Verdict, choose
from slm_operator.pareto.objective import Objective
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.reasons import walk_rulings
from slm_operator.pareto.rulings import Rule, Ruling
from slm_operator.pareto.search import Measure, SearchSpace, Settle

NOTHING_SPOILED: Mapping[OperatingPoint, Ruling] = MappingProxyType({})
POINTS_KEPT = 64
"""As many as the status may hold; a search of 32 replicas takes fewer."""
OUTSIDE = Ruling(
    Rule.OUTSIDE_SPACE, "measured for another range of replicas or another batch than today's"
)


def read(frontier: Iterable[FrontierPoint]) -> tuple[OperatingPoint, ...]:
    """The measured points that a status holds, to its precision."""
    return tuple(
        OperatingPoint(
            probe=Probe(p.layout_replicas, p.replicas_per_pack, p.max_num_seqs),
            output_tokens_per_second=float(p.output_tokens_per_second),
            confidence_tokens_per_second=float(p.confidence_tokens_per_second),
            power_watts=_watts(p),
            ttft_p95_seconds=seconds(p.ttft_p95),
            itl_p95_seconds=seconds(p.itl_p95),
            window_seconds=float(p.window_seconds),
            saturated_fraction=p.saturated_percent / 100,
            measured_at=p.measured_at,
            simulated=p.simulated,
            runs=p.windows,
            preemptions_per_request=None
            if p.preemptions_per_hundred_requests is None
            else p.preemptions_per_hundred_requests / 100,
            workload=read_workload(p.workload),
            power_capped_fraction=None
            if p.power_capped_percent is None
            else p.power_capped_percent / 100,
        )
        for p in frontier
    )


def kept(point: OperatingPoint) -> OperatingPoint:
    """To the status' precision: whoever decides by more decides otherwise at the next look."""
    (found,) = read([_frontier_point(point, None, False, OUTSIDE)])
    return found


def frontier(
    points: Sequence[OperatingPoint],
    space: SearchSpace | None,
    step: Measure | Settle | None,
    spoiled: Mapping[OperatingPoint, Ruling] = NOTHING_SPOILED,
) -> tuple[FrontierPoint, ...]:
    """Every point with its verdict: final once the search has settled, so far before that.
    ``spoiled``: those that do not count, and why."""
    verdicts = {
        v.point.probe: v for v in _verdicts([p for p in points if p not in spoiled], space, step)
    }
    settled = isinstance(step, Settle)
    told = (
        walk_rulings(step.walked, space.objective, space.limits)
        if isinstance(step, Settle) and space
        else {}
    )
    newest = sorted(points, key=lambda p: p.measured_at)[-POINTS_KEPT:]
    return tuple(
        _frontier_point(p, None, settled, spoiled[p])
        if p in spoiled
        else _frontier_point(p, verdicts.get(p.probe), settled, told.get(p.probe, OUTSIDE))
        for p in newest
    )


def _verdicts(
    points: Sequence[OperatingPoint], space: SearchSpace | None, step: Measure | Settle | None
) -> Sequence[Verdict]:
    if isinstance(step, Settle):
        return step.choice.verdicts
    if not points:
        return ()
    if space is None:
        return choose(points, Objective()).verdicts
    return choose(points, space.objective, space.limits).verdicts


def operating_point(point: OperatingPoint) -> OperatingPointStatus:
    energy = point.joules_per_output_token
    return OperatingPointStatus(
        **_figures(point),
        joules_per_output_token=None if energy is None else f"{energy:.4f}",
    )


def judged(point: OperatingPoint, ruling: Ruling | None) -> dict[str, Any]:
    """The fields of an api JudgedPoint."""
    compared = ruling.comparison if ruling else None
    return {
        **_figures(point),
        "layout_replicas": point.probe.layout_replicas,
        "confidence_tokens_per_second": round(point.confidence_tokens_per_second),
        "rule": ruling.rule.value if ruling else None,
        "compared": compared
        and Compared(
            quantity=compared.quantity.value,
            value=round(compared.value),
            bound=round(compared.bound),
        ),
    }


def figures(point: OperatingPoint) -> str:
    """Throughput with its confidence, and power, in words."""
    text = (
        f"{point.probe}: {point.output_tokens_per_second:,.0f} "
        f"± {point.confidence_tokens_per_second:,.0f} output tok/s"
    )
    if point.power_watts is None:
        return f"{text}, power unknown"
    return f"{text} at {point.power_watts:,.0f} W"


def duration(seconds: float | None) -> str | None:
    """To a tenth of a millisecond, since an SLO of a few is held against it."""
    return None if seconds is None else f"{seconds * 1000:.1f}".removesuffix(".0") + "ms"


def seconds(duration: str | None) -> float | None:
    return None if duration is None else float(duration.removesuffix("ms")) / 1000


def _frontier_point(
    point: OperatingPoint, verdict: Verdict | None, settled: bool, otherwise: Ruling
) -> FrontierPoint:
    ruling = otherwise if verdict is None else verdict.ruling
    so_far = verdict is not None and verdict.chosen and not settled
    return FrontierPoint(
        **judged(point, ruling),
        window_seconds=round(point.window_seconds),
        windows=point.runs,
        saturated_percent=round(point.saturated_fraction * 100),
        simulated=point.simulated,
        preemptions_per_hundred_requests=None
        if point.preemptions_per_request is None
        else round(point.preemptions_per_request * 100),
        workload=workload_status(point.workload),
        power_capped_percent=None
        if point.power_capped_fraction is None
        else round(point.power_capped_fraction * 100),
        on_frontier=verdict is not None and verdict.on_frontier,
        chosen=settled and verdict is not None and verdict.chosen,
        why=f"best so far: {ruling.text}" if so_far else ruling.text,
    )


def _figures(point: OperatingPoint) -> dict[str, Any]:
    energy = point.joules_per_output_token
    return {
        "replicas_per_pack": point.probe.replicas,
        "max_num_seqs": point.probe.max_num_seqs,
        "output_tokens_per_second": round(point.output_tokens_per_second),
        "power_watts": _rounded(point.power_watts),
        "microjoules_per_output_token": None if energy is None else round(energy * 1e6),
        "ttft_p95": duration(point.ttft_p95_seconds),
        "itl_p95": duration(point.itl_p95_seconds),
        "measured_at": point.measured_at,
    }


def _watts(point: FrontierPoint) -> float | None:
    """From energy per token, which the status holds more precisely than the power itself."""
    if point.microjoules_per_output_token is None:
        return None
    return point.microjoules_per_output_token * point.output_tokens_per_second / 1e6


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)
