"""Recorded runs of a real GPU, counted as the agent would have counted them.

Each engine row becomes the Prometheus text that the engine answered with, read by the agent's own
parser; power readings are added up by the agent's own meter; and the agent's own meter of moments
makes the pack's counters of both.
"""

from __future__ import annotations

import csv
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from slm_operator.pareto.window import Sample
from slm_worker.engine.metrics import EngineSample, parse_metrics
from slm_worker.gpu.energy import EnergyMeter
from slm_worker.measure import EngineReading, Meter, Moment
from slm_worker.planning.measured import Row, rows

FOLDER = Path(__file__).parents[1] / "fixtures" / "recorded_runs"
MODEL = "opt-1.3b"
RUNS = ((1, 96), (1, 256), (1, 768), (2, 96), (2, 256), (4, 96), (4, 256))
"""(replicas, max_num_seqs)."""
COUNTERS = (
    "num_preemptions_total",
    "request_success_total",
    "prompt_tokens_total",
    "generation_tokens_total",
)
GAUGES = ("num_requests_running", "num_requests_waiting")
WARMUP_TOKENS = 16
"""Each engine began with one short completion before the requests came."""


@dataclass(frozen=True)
class _Engine:
    """One engine's recording."""

    at_seconds: tuple[float, ...]
    rows: tuple[dict[str, float], ...]

    @property
    def began_seconds(self) -> float:
        tokens = [row["generation_tokens_total"] for row in self.rows]
        return self.at_seconds[max(i for i, t in enumerate(tokens) if t <= WARMUP_TOKENS)]

    @property
    def ended_seconds(self) -> float:
        tokens = [row["generation_tokens_total"] for row in self.rows]
        return self.at_seconds[tokens.index(tokens[-1])]

    def read_at(self, now_seconds: float) -> EngineSample:
        """What it would have answered between two rows: counters on the straight line between
        them, gauges as in the earlier one."""
        index = max(0, bisect_right(self.at_seconds, now_seconds) - 1)
        now = dict(self.rows[index])
        if index + 1 < len(self.rows):
            length = self.at_seconds[index + 1] - self.at_seconds[index]
            part = max(0.0, now_seconds - self.at_seconds[index]) / length
            for name in COUNTERS:
                now[name] += part * (self.rows[index + 1][name] - now[name])
        text = "\n".join(f'vllm:{name}{{model_name="{MODEL}"}} {now[name]}' for name in now)
        return parse_metrics(text)


@dataclass(frozen=True)
class RecordedRun:
    replicas: int
    max_num_seqs: int
    samples: tuple[Sample, ...]
    """One for each power reading, about one a second."""
    busy: tuple[bool, ...]
    """For each sample whether a kernel ran."""
    began_seconds: float
    """When the requests came: the engines' last reading before it."""
    ended_seconds: float
    """When the last token was counted."""

    @property
    def output_tokens_per_second(self) -> float:
        """Over the whole run, with its ramp and its tail."""
        tokens = self.samples[-1].counters.output_tokens - WARMUP_TOKENS * self.replicas
        return tokens / (self.ended_seconds - self.began_seconds)

    @property
    def power_watts(self) -> float:
        """Over the seconds in which some kernel ran, as the study counts."""
        millijoules = seconds = 0.0
        for (old, new), busy in zip(pairwise(self.samples), self.busy[1:], strict=True):
            if busy:
                before, after = old.counters.energy_millijoules, new.counters.energy_millijoules
                assert before is not None and after is not None
                millijoules += after - before
                seconds += new.counters.sampled_at_seconds - old.counters.sampled_at_seconds
        return millijoules / 1000 / seconds

    @property
    def full(self) -> tuple[Sample, ...]:
        """While requests waited in every engine."""
        before = self.samples[0].counters.saturated_seconds
        total = self.samples[-1].counters.saturated_seconds
        first = max(i for i, s in enumerate(self.samples) if s.counters.saturated_seconds == before)
        last = next(i for i, s in enumerate(self.samples) if s.counters.saturated_seconds == total)
        return self.samples[first : last + 1]

    @property
    def published(self) -> Row:
        """The means that the study gives for this very run."""
        (row,) = (
            r
            for r in rows()
            if (r.kind, r.model, r.chunked_prefill) == ("replication", MODEL, False)
            and (r.replicas, r.max_num_seqs) == (self.replicas, self.max_num_seqs)
        )
        return row


@cache
def recorded(replicas: int, max_num_seqs: int) -> RecordedRun:
    folder = FOLDER / f"{MODEL}-{replicas}x{max_num_seqs}"
    engines = [_engine(folder / f"replica_{k}.csv") for k in range(replicas)]
    device = [row for row in _table(folder / "gpu_dmon.csv") if row["time"] != "s"]  # the units
    clock_mhz = max(int(row["pclk"]) for row in device)
    meter, energy, samples = Meter(), EnergyMeter(), []
    for row in device:
        now_seconds = float(row["time"])
        energy = energy.integrated(float(row["pwr"]), now_seconds)
        readings = {
            (k, 1): EngineReading(engine.read_at(now_seconds), True, max_num_seqs)
            for k, engine in enumerate(engines)
        }
        moment = Moment(
            now_seconds,
            readings,
            router_queue=0,  # every request waits in an engine
            energy_millijoules=energy.total_millijoules,
            replica_starts=replicas,
            # The recorder's own flag stays up over idle minutes at full clocks.
            throttled=int(row["pclk"]) < clock_mhz,
        )
        running = sum(r.sample.running for r in readings.values() if r.sample)
        samples.append(Sample("recorded", 0.0, meter.record(moment), running))
    return RecordedRun(
        replicas,
        max_num_seqs,
        tuple(samples),
        busy=tuple(int(row["sm"]) > 0 for row in device),
        began_seconds=min(engine.began_seconds for engine in engines),
        ended_seconds=max(engine.ended_seconds for engine in engines),
    )


def _engine(path: Path) -> _Engine:
    table = _table(path)
    return _Engine(
        at_seconds=tuple(float(row["time [s]"]) for row in table),
        rows=tuple({name: float(row[name]) for name in (*COUNTERS, *GAUGES)} for row in table),
    )


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="ascii") as file:
        return list(csv.DictReader(file))
