"""Builders for simulations: traces, curves with round numbers, and the published one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from random import Random

from slm_operator.cli import curves
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.simulate.curve import Curve
from slm_operator.simulate.hardware import Hardware, LengthCosts
from slm_operator.simulate.seen import Seen
from slm_operator.simulate.trace import Request, Trace
from slm_worker.planning.measured import STUDY_GPU
from slm_worker.planning.workload import Workload

PUBLISHED = Path(str(resources.files("slm_worker.planning") / "data" / f"{STUDY_GPU}.csv"))
OPT_1_3B_CONFIG = """\
{"model_type": "opt", "vocab_size": 50272, "hidden_size": 2048, "num_hidden_layers": 24,
 "num_attention_heads": 32, "ffn_dim": 8192, "word_embed_proj_dim": 2048,
 "max_position_embeddings": 2048, "torch_dtype": "float16", "tie_word_embeddings": true}
"""
"""The sizes that facebook/opt-1.3b publishes."""
SHORT = Workload(prompt_tokens=10, output_tokens=10)
IDLE_WATTS = 100.0


def trace(*requests: tuple[float, int, int]) -> Trace:
    """(arrival in seconds, prompt tokens, output tokens) of each request, by arrival."""
    return Trace(tuple(Request(*one) for one in requests))


def poisson(
    seconds: float, per_second: float, seed: int = 1, *, prompt: int = 100, output: int = 100
) -> Trace:
    """Requests of one length that arrive by chance."""
    rng, now, found = Random(seed), 0.0, []
    while now < seconds:
        found.append(Request(now, prompt, output))
        now += rng.expovariate(per_second)
    return Trace(tuple(found))


def committed(replicas: int, batch: int, tokens_per_second: float, watts: float) -> OperatingPoint:
    return OperatingPoint.without_window(
        Probe(replicas, replicas, batch), tokens_per_second, watts, simulated=True
    )


def curve(points: Mapping[tuple[int, int], tuple[float, float]]) -> Curve:
    """(replicas, max_num_seqs) to (tokens/s, watts)."""
    return Curve(
        tuple(committed(*layout, *figures) for layout, figures in points.items()), IDLE_WATTS
    )


def flat(
    *,
    step_seconds: float = 0.1,
    step_joules: float = 1.0,
    batches: Iterable[int] = (1, 2),
    replicas: Iterable[int] = (1, 2),
    **more: object,
) -> Hardware:
    """A GPU whose steps all take as long and as much energy above idle, whatever runs: easy to
    calculate by hand."""
    points = {
        (n, batch): (n * batch / step_seconds, IDLE_WATTS + n * step_joules / step_seconds)
        for n in replicas
        for batch in batches
    }
    values: dict[str, object] = {"measured_at": SHORT, "costs": LengthCosts()}
    return Hardware(curve=curve(points), **(values | more))  # type: ignore[arg-type]


@cache
def opt_1_3b(*, lengths: bool = False) -> Hardware:
    """The published measurements on one H100; with ``lengths``, prompts and contexts have costs and
    the KV cache an end."""
    text = PUBLISHED.read_text()
    source = curves.measured(str(PUBLISHED), text, "opt-1.3b", STUDY_GPU)
    if lengths:
        source = curves.with_lengths(source, "config.json", OPT_1_3B_CONFIG, STUDY_GPU)
    return source.hardware


class Script:
    """A policy that wants what it was told, from the time it was told on."""

    def __init__(self, *steps: tuple[float, int], period_seconds: float = 15.0) -> None:
        self.period_seconds = period_seconds
        self.steps = steps
        self.asked: list[Seen] = []

    def wanted(self, seen: Seen) -> int:
        self.asked.append(seen)
        return [packs for at, packs in self.steps if at <= seen.now_seconds][-1]
