"""PURE: how fast a GPU runs replicas of a model, and what it draws: for the simulated GPU.

``Pace`` has the methods of :class:`slm_worker.gpu.curves.Curves` and can stand in its place, for
any model and GPU::

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

from slm_worker.planning.catalogue import Gpu
from slm_worker.planning.constants import fitted
from slm_worker.planning.footprint import ModelConfig
from slm_worker.planning.measured import measured_name, points
from slm_worker.planning.power import Activity, power_watts
from slm_worker.planning.sharing import cycle_seconds
from slm_worker.planning.steps import Constants, Cost, Model, decode, model_of, prefill
from slm_worker.planning.workload import STUDY, Workload, mean_context


@dataclass(frozen=True)
class Pace:
    """Throughput in output tokens/s of all replicas together, power in watts of the whole GPU."""

    model: Model
    gpu: Gpu
    dtype: str
    constants: Constants
    workload: Workload
    anchors: Mapping[int, Mapping[int, tuple[float, float]]] = field(default_factory=dict)
    """Measured tokens/s and watts, by replicas and batch; empty for what was never measured."""
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
        return "measured" if self.anchors else "predicted"

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
            speed, power = self._steady(replicas, batch)
            faster, hotter = self._correction(replicas, batch)
            watts = self.idle_watts + (power - self.idle_watts) * hotter
            found = self._between(replicas, batch, speed * faster), min(self.max_watts, watts)
            self._kept[replicas, batch] = found
        return found

    def _steady(self, replicas: int, batch: float) -> tuple[float, float]:
        """By the model alone. For each decode step, as many prompts are read as sequences end."""
        rates = self.gpu.rates(self.dtype)
        context = batch * mean_context(self.workload)
        ending = batch / self.workload.output_tokens
        share = 1 - math.exp(-ending)  # of the steps, in which at least one sequence ends
        joining, tokens = ending / share, ending / share * self.workload.prompt_tokens
        parts: list[tuple[float, Cost]] = [
            (1.0, decode(self.model, rates, self.constants, batch, context)),
            (share, prefill(self.model, rates, self.constants, joining, tokens, batch)),
        ]
        seconds = sum(
            times * cycle_seconds(replicas, cost.gpu_seconds, cost.gap_seconds)
            for times, cost in parts
        )
        activity = Activity.of(
            rates,
            seconds,
            gpu_seconds=replicas * sum(times * cost.gpu_seconds for times, cost in parts),
            weight_bytes=replicas * sum(times * cost.weight_bytes for times, cost in parts),
            kv_bytes=replicas * sum(times * cost.kv_bytes for times, cost in parts),
            flops=replicas * sum(times * cost.flops for times, cost in parts),
        )
        power = power_watts(
            activity, self.constants, idle_watts=self.idle_watts, max_watts=self.max_watts
        )
        return replicas * batch / seconds, power

    def _correction(self, replicas: int, batch: float) -> tuple[float, float]:
        """Measured over modelled, of throughput and of power above idle: linear in the logarithms
        of batch and replicas between anchors, and held beyond them."""
        if not self.anchors:
            return 1.0, 1.0
        counts = sorted(self.anchors)
        below = max((n for n in counts if n <= replicas), default=counts[0])
        above = min((n for n in counts if n >= replicas), default=counts[-1])
        low, high = self._row_correction(below, batch), self._row_correction(above, batch)
        return _mixed(low, high, _share(below, above, replicas))

    def _row_correction(self, replicas: int, batch: float) -> tuple[float, float]:
        row = sorted(self.anchors[replicas])
        below = max((b for b in row if b <= batch), default=row[0])
        above = min((b for b in row if b >= batch), default=row[-1])
        low, high = self._anchor(replicas, below), self._anchor(replicas, above)
        return _mixed(low, high, _share(below, above, batch))

    def _between(self, replicas: int, batch: float, speed: float) -> float:
        """Between two measured counts nothing is faster than both, or slower: a full KV cache held
        the measured four replicas back, and must not make three of them the best."""
        if replicas in self.anchors or not min(self.anchors, default=replicas) < replicas:
            return speed
        above = min((n for n in self.anchors if n > replicas), default=None)
        if above is None:
            return speed
        below = max(n for n in self.anchors if n < replicas)
        low, high = sorted(self._at(n, batch)[0] for n in (below, above))
        return min(max(speed, low), high)

    def _anchor(self, replicas: int, batch: int) -> tuple[float, float]:
        speed, watts = self.anchors[replicas][batch]
        modelled_speed, modelled_watts = self._steady(replicas, batch)
        idle = self.idle_watts
        return speed / modelled_speed, (watts - idle) / (modelled_watts - idle)


def pace_of(
    config: ModelConfig, gpu: Gpu, dtype: str = "float16", workload: Workload = STUDY
) -> Pace:
    """The pace of replicas of a model on ``gpu``. Raises ValueError for a mixture of experts and
    KeyError for a dtype that the GPU lacks."""
    gpu.rates(dtype)
    model = model_of(config, dtype)
    if model is None:
        raise ValueError("a mixture of experts cannot be predicted: use a dense model")
    anchors: dict[int, dict[int, tuple[float, float]]] = {}
    name = measured_name(config, gpu.name, dtype)
    if name is not None:
        for (replicas, batch), row in points(name).items():
            anchors.setdefault(replicas, {})[batch] = row.tokens_per_second, row.watts
    return Pace(model, gpu, dtype, fitted(), workload, anchors)


def _share(below: float, above: float, value: float) -> float:
    if below == above:
        return 0.0
    return math.log(value / below) / math.log(above / below)


def _mixed(
    low: tuple[float, float], high: tuple[float, float], share: float
) -> tuple[float, float]:
    return low[0] + share * (high[0] - low[0]), low[1] + share * (high[1] - low[1])
