"""PURE: what a layout would serve, draw and take, without a GPU (docs/planning.md).

One prediction is a whole run of a batch of requests (:mod:`.workload`), step by step
(:mod:`.batch_run`): what a step costs the GPU and the host (:mod:`.steps`), how replicas share the
GPU (:mod:`.sharing`), and what it draws meanwhile (:mod:`.power`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from typing import Literal

from slm_worker import wire
from slm_worker.planning.anchors import Anchors, Ratios
from slm_worker.planning.batch_run import BatchRun, Layout
from slm_worker.planning.catalogue import Gpu
from slm_worker.planning.constants import fitted
from slm_worker.planning.footprint import ModelConfig, footprint
from slm_worker.planning.measured import Row, measured_name, points
from slm_worker.planning.memory import ModelFootprint
from slm_worker.planning.packing import LayoutError, share
from slm_worker.planning.power import Activity, activity_of, power_watts
from slm_worker.planning.steps import NOT_PREDICTED, Constants, Model, model_of
from slm_worker.planning.workload import STUDY, Workload, output_lengths

Origin = Literal["measured", "interpolated", "predicted"]
STUDY_TOLERANCE = 0.02
"""Mean lengths that differ by no more are those of the measured runs."""


@dataclass(frozen=True)
class Figures:
    """Means of a whole run."""

    tokens_per_second: float
    """Output tokens of all replicas."""
    watts: float
    itl_seconds: float
    """Between two tokens of a sequence."""


@dataclass(frozen=True)
class Simulated:
    """A run by the model alone."""

    figures: Figures
    activity: Activity
    preemptions: int
    """Of all replicas."""
    running: float
    """Sequences of one replica that run on average."""


@dataclass(frozen=True)
class Prediction:
    """One layout; ``figures`` and the KV cache are None where it does not fit."""

    replicas: int
    max_num_seqs: int
    figures: Figures | None
    kv_cache_bytes: int | None
    """Of each replica."""
    why: str
    """What bounds a layout that fits; else why it does not."""
    origin: Origin


@dataclass(frozen=True)
class Predictor:
    """Predicts the layouts of one model on one GPU, and keeps what it computed."""

    config: ModelConfig
    model: Model
    needs: ModelFootprint
    gpu: Gpu
    dtype: str
    chunked_prefill: bool
    workload: Workload
    constants: Constants
    _runs: dict[tuple[int, int], Simulated] = field(default_factory=dict, repr=False, compare=False)

    def predict(self, replicas: int, max_num_seqs: int) -> Prediction:
        """What was measured, where it was; else a prediction, corrected between measured rows."""
        try:
            kv_bytes = self.kv_cache_bytes(replicas, max_num_seqs)
            simulated = self.simulate(replicas, max_num_seqs)
            figures, origin = self._best(replicas, max_num_seqs)
        except (LayoutError, ValueError) as error:
            # ValueError: a KV cache sized for windows, which the run takes for full attention.
            return Prediction(replicas, max_num_seqs, None, None, str(error), "predicted")
        why = self._bound(simulated, replicas, max_num_seqs)
        return Prediction(replicas, max_num_seqs, figures, kv_bytes, why, origin)

    def kv_cache_bytes(self, replicas: int, max_num_seqs: int) -> int:
        """Of each replica. Raises LayoutError."""
        layout = wire.Layout(replicas=replicas, max_num_seqs=max_num_seqs)
        kv_bytes = share(layout, self.needs, self.gpu).kv_cache_bytes
        if kv_bytes is None:
            raise ValueError(f"the KV cache of {layout} is left to the engine: name a GPU")
        return kv_bytes

    def simulate(self, replicas: int, max_num_seqs: int) -> Simulated:
        """By the model alone, whatever was measured. Raises LayoutError, and ValueError where the
        longest sequence outgrows the KV cache."""
        found = self._runs.get((replicas, max_num_seqs))
        if found is None:
            found = self._runs[replicas, max_num_seqs] = self._simulated(replicas, max_num_seqs)
        return found

    def _simulated(self, replicas: int, max_num_seqs: int) -> Simulated:
        kv_bytes = self.kv_cache_bytes(replicas, max_num_seqs)
        rates = self.gpu.rates(self.dtype)
        longest = int(self.needs.max_model_len - self.workload.prompt_tokens)
        totals = BatchRun(
            model=self.model,
            rates=rates,
            constants=self.constants,
            layout=Layout(
                replicas=replicas,
                max_num_seqs=max_num_seqs,
                kv_tokens=kv_bytes // self.model.kv_bytes_per_token,
                chunked_prefill=self.chunked_prefill,
            ),
            prompt_tokens=self.workload.prompt_tokens,
            lengths=output_lengths(self.workload, replicas, longest),
        ).run()
        activity = activity_of(totals, replicas, rates)
        watts = power_watts(
            activity,
            self.constants,
            idle_watts=self.gpu.idle_watts,
            max_watts=self.gpu.max_watts,
        )
        figures = Figures(
            tokens_per_second=replicas * totals.output_tokens / totals.seconds,
            watts=watts,
            itl_seconds=totals.gap_seconds / max(1, totals.gaps),
        )
        running = totals.gap_seconds / totals.seconds
        return Simulated(figures, activity, replicas * totals.preemptions, running)

    def _best(self, replicas: int, max_num_seqs: int) -> tuple[Figures, Origin]:
        rows = self._measured()
        row = rows.get((replicas, max_num_seqs))
        if row is not None:
            return Figures(row.tokens_per_second, row.watts, row.itl_seconds), "measured"
        anchors = Anchors(frozenset(rows), self._off)
        if not rows or not anchors.enclose(replicas, max_num_seqs):
            return self.simulate(replicas, max_num_seqs).figures, "predicted"
        between = anchors.between(replicas, lambda n: astuple(self._best(n, max_num_seqs)[0]))
        if between is not None:
            return Figures(*between), "interpolated"
        own = astuple(self.simulate(replicas, max_num_seqs).figures)
        ratios = anchors.ratios(replicas, max_num_seqs)
        corrected = (figure * ratio for figure, ratio in zip(own, ratios, strict=True))
        return Figures(*corrected), "interpolated"

    def _measured(self) -> Mapping[tuple[int, int], Row]:
        """Rows of this very model, GPU, dtype, prefill and lengths."""
        pairs = (
            (self.workload.prompt_tokens, STUDY.prompt_tokens),
            (self.workload.output_tokens, STUDY.output_tokens),
        )
        if any(abs(given / study - 1) > STUDY_TOLERANCE for given, study in pairs):
            return {}
        name = measured_name(self.config, self.gpu.name, self.dtype)
        return {} if name is None else points(name, chunked_prefill=self.chunked_prefill)

    def _off(self, replicas: int, max_num_seqs: int) -> Ratios:
        row, own = self._measured()[replicas, max_num_seqs], self.simulate(replicas, max_num_seqs)
        figures = own.figures
        return (
            row.tokens_per_second / figures.tokens_per_second,
            row.watts / figures.watts,
            row.itl_seconds / figures.itl_seconds,
        )

    def _bound(self, simulated: Simulated, replicas: int, max_num_seqs: int) -> str:
        activity = simulated.activity
        reads = activity.weight_reads + activity.kv_reads
        text = (
            f"fits; the GPU is busy {activity.busy:.0%} of the time and reads {reads:.0%} of its "
            "peak bandwidth"
        )
        if simulated.preemptions:
            text += (
                f"; the KV cache bounds the batch to some {simulated.running:,.0f} of "
                f"{max_num_seqs:,} sequences, {simulated.preemptions:,} preemptions"
            )
        elif max_num_seqs * replicas > self.workload.requests:
            text += f"; {self.workload.requests:,} requests do not fill the batch"
        return text


def predictor_of(
    config: ModelConfig,
    gpu: Gpu,
    *,
    dtype: str = "float16",
    chunked_prefill: bool = True,
    workload: Workload = STUDY,
    constants: Constants | None = None,
) -> Predictor:
    """``constants`` None are the fitted ones.

    Raises ModelError for an unknown dtype, KeyError for one that the GPU lacks, and ValueError for
    a model whose pace is NOT_PREDICTED or lengths above its longest sequence.
    """
    prefill = "--enable-chunked-prefill" if chunked_prefill else "--no-enable-chunked-prefill"
    asked_tokens = workload.prompt_tokens + workload.output_tokens
    # Whoever sends sequences that the engine only takes when it is told so tells it.
    told_tokens = math.ceil(min(asked_tokens, config.longest_sequence))
    tokens = max(config.usual_longest_sequence, told_tokens)
    args = ["--dtype", dtype, "--max-model-len", str(tokens), prefill]
    needs = footprint(config, None, args)
    model = model_of(config, dtype)
    if model is None or needs is None:
        raise ValueError(NOT_PREDICTED)
    gpu.rates(dtype)
    if asked_tokens > needs.max_model_len:
        raise ValueError(
            f"{workload.prompt_tokens:,.0f} prompt and {workload.output_tokens:,.0f} output tokens "
            f"exceed the model's longest sequence of {needs.max_model_len:,}: give shorter ones"
        )
    return Predictor(
        config, model, needs, gpu, dtype, chunked_prefill, workload, constants or fitted()
    )
