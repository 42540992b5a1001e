"""Which GPUs can be simulated, and how fast a model runs on one of them.

The pace is the planner's performance model: measured where the model was measured, predicted
elsewhere. Measured rows are means of whole runs of 2,000 prompts sent at once, prefill, ramp and
tail included; the simulated GPU gives those means while it is saturated, so a simulated run of
2,000 prompts, with its own ramp and tail, is somewhat slower than the measured one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from slm_worker.gpu.simulated.state import Pace
from slm_worker.planning import pace as performance
from slm_worker.planning.catalogue import Gpu, gpus
from slm_worker.planning.footprint import ModelConfig, ModelError, footprint, parse_config
from slm_worker.planning.measured import STUDY_GPU, Row, measured_name, points, rows
from slm_worker.planning.workload import STUDY

DEFAULT_GPU = STUDY_GPU
DTYPE = "float16"
"""Models are served in 16 bits, as ``--dtype auto`` does with nearly every checkpoint."""
RUNTIME_BYTES = 2**30
"""Context, graphs and activations of a simulated engine; packing reserves more than this."""
STUDY_MEMORY_SHARE = 0.9
"""Of the GPU, for all replicas of a measured run together."""
CHUNKED_PREFILL = "chunked_prefill"
"""Beside the fields of config.json: whether prompts are read within decode steps. The measured
engine did not by default."""


class Paces:
    """The pace of each model on one GPU; one object for each model, however often it is asked."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._known: dict[str, Pace] = {}

    def of(self, model: Mapping[str, object]) -> Pace:
        """``model``: what its config.json says, and CHUNKED_PREFILL. Raises ValueError."""
        key = json.dumps(model, sort_keys=True)
        if key not in self._known:
            self._known[key] = self._new(model)
        return self._known[key]

    def _new(self, model: Mapping[str, object]) -> Pace:
        try:
            config = parse_config(model, "config.json")
        except ModelError as error:
            raise ValueError(error.message) from None
        if config is None:
            raise ValueError("config.json leaves sizes of its model to the engine")
        pace = performance.pace_of(config, self._gpu, DTYPE)
        name = measured_name(config, self._gpu.name, DTYPE)
        if name is not None:
            own = [row for row in rows() if row.model == name and not row.chunked_prefill]
            pace = replace(pace, rows=_as_simulated(own, config, self._gpu))
        return ChunkedPrefill(pace) if model.get(CHUNKED_PREFILL) else pace


def _as_simulated(own: Sequence[Row], config: ModelConfig, gpu: Gpu) -> dict[tuple[int, int], Row]:
    """Measured runs by replicas and the sequences that ran.

    That is max_num_seqs, but in a run whose KV cache was full those that it had room for, because a
    simulated engine runs no more either. A point that was measured twice counts as its mean.
    """
    found: dict[tuple[int, int], list[Row]] = {}
    for row in own:
        batch = row.max_num_seqs
        if row.preemptions:
            batch = min(batch, _held_sequences(row.replicas, config, gpu))
        found.setdefault((row.replicas, batch), []).append(row)
    return {
        point: replace(
            same[-1],
            tokens_per_second=sum(row.tokens_per_second for row in same) / len(same),
            watts=sum(row.watts for row in same) / len(same),
        )
        for point, same in found.items()
    }


def _held_sequences(replicas: int, config: ModelConfig, gpu: Gpu) -> int:
    """How many sequences of the study's lengths, half written, each replica's KV cache holds."""
    needs = footprint(config, None, ["--dtype", DTYPE])
    assert needs is not None  # noqa: S101 - the measured models are dense
    share_bytes = STUDY_MEMORY_SHARE * gpu.memory_bytes / replicas
    kv_bytes = share_bytes - needs.weights_bytes - RUNTIME_BYTES
    context = STUDY.prompt_tokens + STUDY.output_tokens / 2
    return int(kv_bytes / needs.kv_bytes_per_token / context)


@dataclass(frozen=True)
class ChunkedPrefill:
    """The pace of an engine that reads prompts within decode steps, so that fewer steps are lost.

    Measured at one point only (OPT-1.3B, 768 sequences); what it gained there is held elsewhere.
    """

    plain: performance.Pace

    def step_seconds(self, batches: Sequence[int], own: int) -> float:
        return self.plain.step_seconds(batches, own) / _chunked_gain()[0]

    def active_watts(self, batches: Sequence[int]) -> float:
        idle = self.plain.idle_watts
        watts = idle + (self.plain.active_watts(batches) - idle) * _chunked_gain()[1]
        return min(self.plain.max_watts, watts)


@cache
def _chunked_gain() -> tuple[float, float]:
    """Factors on throughput and on power above idle."""
    point, idle = (1, 768), gpus()[STUDY_GPU].idle_watts
    plain = points("opt-1.3b")[point]
    chunked = points("opt-1.3b", chunked_prefill=True)[point]
    return (
        chunked.tokens_per_second / plain.tokens_per_second,
        (chunked.watts - idle) / (plain.watts - idle),
    )
