"""PURE: how fast a GPU runs replicas of a model, and what it draws: for the simulated GPU.

For any model and GPU::

    pace = pace_of(config, gpus()["h100-sxm-64gb"], "float16")
    pace.tokens_per_second(replicas=2, batch=256)   # all replicas together
    pace.watts(2, 256)                              # replicas 0: idle
    pace.step_seconds([256, 256], own=0)            # one step of replica 0
    pace.active_watts([256, 256])                   # () is idle
    pace.simulated_as                               # "measured" or "predicted"

A pace is that of a steady load: ``batch`` sequences run in each replica, prompts of new ones are
read in between, and no KV cache is full (who simulates, knows what runs). Where model and GPU were
measured, the values are corrected: at each measured row (batch = its max_num_seqs) they equal the
measured whole-run mean, and between rows the correction runs smoothly. So every row is
reproduced; elsewhere it is the model's own shape.

The study's lengths (111 prompt and 292 output tokens) are assumed unless given. A pace is a pure
function of its arguments and keeps what it computed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from slm_worker.planning.anchors import Anchors, Ratios
from slm_worker.planning.batch_run import Totals
from slm_worker.planning.catalogue import Gpu
from slm_worker.planning.constants import fitted
from slm_worker.planning.footprint import ModelConfig
from slm_worker.planning.measured import Row, measured_name, points
from slm_worker.planning.power import activity_of, power_watts
from slm_worker.planning.steps import NOT_PREDICTED, Constants, Model, decode, model_of, prefill
from slm_worker.planning.workload import STUDY, Workload, mean_context


@dataclass(frozen=True)
class Pace:
    """Throughput in output tokens/s of all replicas together, power in watts of the whole GPU."""

    model: Model
    gpu: Gpu
    dtype: str
    constants: Constants
    workload: Workload
    rows: Mapping[tuple[int, int], Row] = field(default_factory=dict)
    """Measured, by replicas and batch; empty for what was never measured."""
    _kept: dict[tuple[int, float], tuple[float, float]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def idle_watts(self) -> float:
        return self.gpu.idle_watts

    @property
    def max_watts(self) -> float:
        return self.gpu.max_watts

    @property
    def simulated_as(self) -> Literal["measured", "predicted"]:
        """Whether measurements of this very model and GPU anchor the values."""
        return "measured" if self.rows else "predicted"

    def tokens_per_second(self, replicas: int, batch: float) -> float:
        """Of ``replicas`` >= 1 that run ``batch`` >= 1 sequences each. Raises ValueError."""
        return self._at(replicas, batch)[0]

    def watts(self, replicas: int, batch: float) -> float:
        """Power of the GPU; ``replicas`` 0 means that nobody runs. Raises ValueError."""
        return self._at(replicas, batch)[1] if replicas else self.idle_watts

    def step_seconds(self, batches: Sequence[int], own: int) -> float:
        """Time of one step of the replica at index ``own``.

        ``batches``: the running sequences of every active replica, each >= 1. A replica runs as
        fast as if all of them had its own batch size.
        """
        batch = batches[own]
        return len(batches) * batch / self.tokens_per_second(len(batches), batch)

    def active_watts(self, batches: Sequence[int]) -> float:
        """Power with these active replicas: that of their mean batch size, idle without any."""
        return self.watts(len(batches), sum(batches) / len(batches) if batches else 0)

    def _at(self, replicas: int, batch: float) -> tuple[float, float]:
        if replicas < 1 or batch < 1:
            raise ValueError(f"{replicas} replicas with {batch} sequences: both must be at least 1")
        found = self._kept.get((replicas, batch))
        if found is None:
            found = self._corrected(replicas, batch) if self.rows else self._steady(replicas, batch)
            self._kept[replicas, batch] = found
        return found

    def _corrected(self, replicas: int, batch: float) -> tuple[float, float]:
        """By how far the model is off, in throughput and in power above idle, at measured rows."""
        anchors = Anchors(frozenset(self.rows), self._off)
        between = anchors.between(replicas, lambda count: self._at(count, batch))
        if between is not None:
            speed, watts = between
            return speed, watts
        (speed, watts), idle = self._steady(replicas, batch), self.idle_watts
        faster, hotter = anchors.ratios(replicas, batch)
        return speed * faster, min(self.max_watts, idle + (watts - idle) * hotter)

    def _steady(self, replicas: int, batch: float) -> tuple[float, float]:
        """By the model alone. For each decode step, as many prompts are read as sequences end."""
        rates = self.gpu.rates(self.dtype)
        context = batch * mean_context(self.workload)
        ending = batch / self.workload.output_tokens
        share = 1 - math.exp(-ending)  # of the steps, in which at least one sequence ends
        joining, tokens = ending / share, ending / share * self.workload.prompt_tokens
        totals = Totals()
        for times, cost in (
            (1.0, decode(self.model, rates, self.constants, batch, context)),
            (share, prefill(self.model, rates, self.constants, joining, tokens, batch)),
        ):
            totals.spend(cost, times, replicas)
        activity = activity_of(totals, replicas, rates)
        power = power_watts(
            activity, self.constants, idle_watts=self.idle_watts, max_watts=self.max_watts
        )
        return replicas * batch / totals.seconds, power

    def _off(self, replicas: int, batch: int) -> Ratios:
        row = self.rows[replicas, batch]
        speed, watts = self._steady(replicas, batch)
        idle = self.idle_watts
        return row.tokens_per_second / speed, (row.watts - idle) / (watts - idle)


def pace_of(
    config: ModelConfig, gpu: Gpu, dtype: str = "float16", workload: Workload = STUDY
) -> Pace:
    """The pace of replicas of a model on ``gpu``. Raises ValueError for a mixture of experts or
    latent attention, and KeyError for a dtype that the GPU lacks."""
    gpu.rates(dtype)
    model = model_of(config, dtype)
    if model is None:
        raise ValueError(NOT_PREDICTED)
    name = measured_name(config, gpu.name, dtype)
    rows = {} if name is None else points(name)
    return Pace(model, gpu, dtype, fitted(), workload, rows)
