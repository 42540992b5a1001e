"""Curves for the study of the search: the published measurements, and what the planner predicts.

A curve tells what a window of each probe would show, were there no noise. Figures of measured rows
are those rows; between them (three replicas) they are interpolated. A rotation of a larger layout,
which nobody published, is the committed point times what its smaller KV cache costs by the planner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Literal

from slm_operator.pareto.choice import choose
from slm_operator.pareto.objective import NO_LIMITS, Limits, Objective, ObjectiveKind
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.space import LARGER_BATCH, SMALLER_BATCHES, SearchSpace
from slm_worker.planning.catalogue import gpus
from slm_worker.planning.measured import MODELS, STUDY_GPU, MeasuredModel, points
from slm_worker.planning.performance import Figures, Predictor, predictor_of

KINDS: tuple[ObjectiveKind, ...] = ("Balanced", "MaxThroughput", "MinEnergyPerToken")
OPT, LLAMA = MODELS
PREDICTED_GPUS = ("a100-sxm-80gb", "l40s", "h200-sxm-141gb")
"""Of three memory sizes and bandwidths."""
POWER_LIMIT = Limits(power_watts=420)
ITL_LIMIT = Limits(itl_p95_seconds=0.025)
"""Held against mean ITL, which is what the rows have of every layout."""


Group = Literal["measured", "measured, with a limit", "predicted"]


@dataclass(frozen=True)
class Curve:
    name: str
    group: Group
    """Measured: committed points of one, two and four replicas are published rows, but for batches
    between the rows where a limit makes the search try them."""
    space: SearchSpace
    truth: Callable[[Probe], OperatingPoint]
    guessed: Callable[[Probe], OperatingPoint]
    """By the planner's own model, without the rows."""
    outside: tuple[Probe, ...] = ()
    """Measured rows that the search never tries."""

    def guess(self) -> Probe:
        """What the planner expects to be best."""
        points = [self.guessed(probe) for probe in self._probes()]
        return choose(points, self.space.objective, self.space.limits).chosen.probe

    def candidates(self) -> list[OperatingPoint]:
        """What the search may choose."""
        return [self.truth(probe) for probe in self._probes()]

    def _probes(self) -> list[Probe]:
        space = self.space
        counts = range(space.min_replicas, space.max_replicas + 1)
        probes = [Probe(n, n, b) for n in counts for b in space.batches]
        if space.batch_is_free and space.min_replicas == 1:
            probes.append(Probe(1, 1, LARGER_BATCH))
        return probes


@dataclass(frozen=True)
class _InRotation(Predictor):
    """Predicts some replicas of a layout while the rest hold memory for nothing."""

    layout_replicas: int = field(default=1, kw_only=True)

    def kv_cache_bytes(self, replicas: int, max_num_seqs: int) -> int:
        return super().kv_cache_bytes(self.layout_replicas, max_num_seqs)


def measured_curves(kind: ObjectiveKind) -> Iterator[Curve]:
    opt, llama = _predictor(OPT, STUDY_GPU, False), _predictor(LLAMA, STUDY_GPU, False)
    chunked = _predictor(OPT, STUDY_GPU, True)
    for batch in (96, 256):
        yield _curve(f"OPT-1.3B, {batch} sequences, 1-4 replicas", opt, _space(kind, 4, batch))
    yield _curve("OPT-1.3B, batch open, 1-4 replicas", opt, _space(kind, 4))
    for name, limits in (("420 W", POWER_LIMIT), ("ITL 25 ms", ITL_LIMIT)):
        space = _space(kind, 4, limits=limits)
        title = f"OPT-1.3B, batch open, 1-4 replicas, {name}"
        yield _curve(title, opt, space, "measured, with a limit")
    for model, predictor in ((OPT, opt), (LLAMA, llama)):
        rows = points(model.name)
        tried = {LARGER_BATCH, 256, *SMALLER_BATCHES}
        outside = tuple(Probe(n, n, b) for n, b in rows if n == 1 and b not in tried)
        name = f"{model.name} sweep, batch open, 1 replica"
        yield _curve(name, predictor, _space(kind, 1), outside=outside)
    yield _curve("OPT-1.3B chunked, 768 sequences, 1 replica", chunked, _space(kind, 1, 768))


def predicted_curves(kind: ObjectiveKind) -> Iterator[Curve]:
    for model in MODELS:
        for gpu in (STUDY_GPU, *PREDICTED_GPUS):
            predictor = _predictor(model, gpu, True)
            fitting = [n for n in (1, 2, 3, 4, 5, 6) if predictor.predict(n, 256).figures]
            for name, batch in (("batch open", None), ("96 sequences", 96)):
                space = _space(kind, max(fitting), batch)
                title = f"{model.name} chunked on {gpu}, {name}, 1-{max(fitting)} replicas"
                yield _curve(title, predictor, space, "predicted")


@cache
def _predictor(model: MeasuredModel, gpu: str, chunked_prefill: bool) -> Predictor:
    return predictor_of(model.config(), gpus()[gpu], chunked_prefill=chunked_prefill)


def _space(
    kind: ObjectiveKind, replicas: int, batch: int | None = None, limits: Limits = NO_LIMITS
) -> SearchSpace:
    return SearchSpace(1, replicas, batch or 256, batch is None, Objective(kind), limits=limits)


def _curve(
    name: str,
    predictor: Predictor,
    space: SearchSpace,
    group: Group = "measured",
    outside: tuple[Probe, ...] = (),
) -> Curve:
    own = {f.name: getattr(predictor, f.name) for f in fields(Predictor) if f.init}

    @cache
    def shared(layout_replicas: int) -> Predictor:
        return _InRotation(**own | {"_runs": {}}, layout_replicas=layout_replicas)

    @cache
    def truth(probe: Probe) -> OperatingPoint:
        committed = predictor.predict(probe.replicas, probe.max_num_seqs).figures
        if committed is None:
            raise ValueError(f"{name}: {probe} does not fit")
        alone = predictor.simulate(probe.replicas, probe.max_num_seqs)
        run = shared(probe.layout_replicas).simulate(probe.replicas, probe.max_num_seqs)
        return _point(
            probe,
            Figures(
                committed.tokens_per_second
                * (run.figures.tokens_per_second / alone.figures.tokens_per_second),
                committed.watts * (run.figures.watts / alone.figures.watts),
                committed.itl_seconds * (run.figures.itl_seconds / alone.figures.itl_seconds),
            ),
            run.preemptions / predictor.workload.requests,
        )

    def guessed(probe: Probe) -> OperatingPoint:
        return _point(probe, predictor.simulate(probe.replicas, probe.max_num_seqs).figures, 0.0)

    return Curve(f"{name}, {space.objective.kind}", group, space, truth, guessed, outside)


def _point(probe: Probe, figures: Figures, preemptions: float) -> OperatingPoint:
    return OperatingPoint.without_window(
        probe,
        figures.tokens_per_second,
        figures.watts,
        simulated=True,
        itl_p95_seconds=figures.itl_seconds,
        preemptions_per_request=preemptions,
    )
