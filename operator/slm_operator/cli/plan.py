"""``slmctl plan`` and ``slmctl gpus``: predictions without a GPU, as text and JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from slm_operator.pareto.choice import Judgement, judge
from slm_operator.pareto.objective import NO_LIMITS, Objective
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_worker.planning.catalogue import Gpu, gpus
from slm_worker.planning.footprint import ModelError, parse_config
from slm_worker.planning.memory import human
from slm_worker.planning.performance import Prediction, Predictor, predictor_of
from slm_worker.planning.workload import STUDY_REQUESTS, Workload
from slm_worker.wire import MAX_NUM_SEQS, MAX_REPLICAS_PER_PACK

UNKNOWN = "-"
BASIS = (
    f"Means of a whole run: {STUDY_REQUESTS:,} requests sent at once, ramp and tail included. Not "
    "measured, but for rows that say so; docs/planning.md names the errors."
)


class PlanError(Exception):
    """A question that cannot be answered; the text names option, value and remedy."""


@dataclass(frozen=True)
class Question:
    """What was asked, as the command line has it."""

    config_path: str
    config_text: str
    gpu: str
    replicas: str
    max_num_seqs: str
    prompt_tokens: int
    output_tokens: int
    dtype: str
    chunked_prefill: bool


@dataclass(frozen=True)
class Plan:
    model: str
    gpu: Gpu
    question: Question
    predictions: tuple[Prediction, ...]
    judgement: Judgement


def answer(question: Question) -> Plan:
    """Predicts each combination of replicas and batch. Raises PlanError."""
    predictor = _predictor(question)
    counts = _counts("--replicas", question.replicas, MAX_REPLICAS_PER_PACK)
    batches = _counts("--max-num-seqs", question.max_num_seqs, MAX_NUM_SEQS)
    predictions = tuple(predictor.predict(n, batch) for n in counts for batch in batches)
    points = [point for p in predictions if (point := _point(p)) is not None]
    return Plan(
        model=_model_name(question),
        gpu=predictor.gpu,
        question=question,
        predictions=predictions,
        judgement=judge(points, Objective(), NO_LIMITS),
    )


def document(plan: Plan) -> dict[str, Any]:
    """For scripts; figures in the units that their names give."""
    chosen, question = plan.judgement.chosen, plan.question
    return {
        "model": plan.model,
        "gpu": plan.gpu.name,
        "dtype": question.dtype,
        "chunkedPrefill": question.chunked_prefill,
        "promptTokens": question.prompt_tokens,
        "outputTokens": question.output_tokens,
        "basis": BASIS,
        "layouts": [_layout(p) for p in plan.predictions],
        "frontier": [
            _name(verdict.point) for verdict in plan.judgement.verdicts if verdict.on_frontier
        ],
        "knee": None if chosen is None else {**_name(chosen), "why": plan.judgement.sentence},
    }


def text(plan: Plan) -> RenderableType:
    """A table of the layouts, what bounds each, and which one is best."""
    question, verdicts = plan.question, plan.judgement.verdicts
    head = Table.grid(padding=(0, 2))
    prefill = "chunked prefill" if question.chunked_prefill else "no chunked prefill"
    lengths = f"{question.prompt_tokens:,} prompt and {question.output_tokens:,} output tokens"
    for name, value in (
        ("Model", f"{plan.model}, {question.dtype}, {prefill}"),
        ("GPU", f"{plan.gpu.title}, {plan.gpu.gigabytes_per_second:,.0f} GB/s"),
        ("Requests", f"{lengths} on average"),
    ):
        head.add_row(Text(name, style="bold"), value)
    frontier = {verdict.point.probe for verdict in verdicts if verdict.on_frontier}
    knee = None if plan.judgement.chosen is None else plan.judgement.chosen.probe
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("", no_wrap=True)
    for name in ("REPLICAS", "BATCH", "TOK/S", "W", "J/TOKEN", "ITL", "KV CACHE"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("FRONTIER", no_wrap=True)
    table.add_column("ORIGIN", no_wrap=True)
    reasons = Table.grid(padding=(0, 1))
    for one in plan.predictions:
        probe = Probe(one.replicas, one.replicas, one.max_num_seqs)
        table.add_row(
            "◆" if probe == knee else "",
            str(one.replicas),
            str(one.max_num_seqs),
            *_cells(one),
            "yes" if probe in frontier else "no",
            one.origin if one.figures else "does not fit",
            style="bold" if probe == knee else "",
        )
        reasons.add_row("◆" if probe == knee else " ", f"{probe}:", one.why)
    sentence = plan.judgement.sentence if knee else "No layout fits."
    return Group(
        head, Text(), table, Text(), reasons, Text(), Text(sentence), Text(BASIS, style="yellow")
    )


def catalogue_document() -> list[dict[str, Any]]:
    """Every GPU, for scripts."""
    return [
        {
            "name": gpu.name,
            "title": gpu.title,
            "memoryBytes": gpu.memory_bytes,
            "bytesPerSecond": gpu.gigabytes_per_second * 1e9,
            "flopsPerSecond": {dtype: value * 1e12 for dtype, value in gpu.teraflops.items()},
            "streamingMultiprocessors": gpu.sms,
            "idleWatts": gpu.idle_watts,
            "maxWatts": gpu.max_watts,
            "source": gpu.source,
            "idleSource": gpu.idle_source,
        }
        for gpu in gpus().values()
    ]


def catalogue_text() -> RenderableType:
    """Every GPU as a row, and where its figures come from."""
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("GPU", no_wrap=True)
    for name in ("GIB", "GB/S", "16 BIT", "FP32", "FP8", "SMS", "IDLE W", "MAX W"):
        table.add_column(name, justify="right", no_wrap=True)
    sources = Table.grid(padding=(0, 2))
    for gpu in gpus().values():
        table.add_row(
            gpu.name,
            f"{gpu.memory_gib:g}",
            f"{gpu.gigabytes_per_second:,.0f}",
            *(
                f"{gpu.teraflops[dtype]:,g}" if dtype in gpu.teraflops else UNKNOWN
                for dtype in ("float16", "float32", "fp8")
            ),
            str(gpu.sms),
            f"{gpu.idle_watts:g}",
            f"{gpu.max_watts:g}",
        )
        sources.add_row(Text(gpu.name, style="bold"), f"{gpu.source}. Idle: {gpu.idle_source}.")
    note = Text("16 BIT, FP32, FP8: dense TFLOP/s. IDLE W: engines loaded, nothing running.")
    return Group(table, Text(), note, Text(), sources)


def _predictor(question: Question) -> Predictor:
    gpu = gpus().get(question.gpu)
    if gpu is None:
        raise PlanError(
            f"--gpu {question.gpu}: not in the catalogue: use one of {', '.join(gpus())}"
        )
    for option, value in (
        ("--prompt-tokens", question.prompt_tokens),
        ("--output-tokens", question.output_tokens),
    ):
        if value < 1:
            raise PlanError(f"{option} {value}: no length: give a mean of at least 1 token")
    try:
        parsed = json.loads(question.config_text)
    except json.JSONDecodeError as error:
        raise PlanError(
            f"--model-config {question.config_path}: no JSON ({error}): use the model's config.json"
        ) from None
    if not isinstance(parsed, dict):
        raise PlanError(
            f"--model-config {question.config_path}: holds a {type(parsed).__name__}, no object: "
            "use the model's config.json"
        )
    try:
        config = parse_config(parsed, f"--model-config {question.config_path}")
    except ModelError as error:
        raise PlanError(error.message) from None
    if config is None:
        raise PlanError(
            f"--model-config {question.config_path}: leaves its sizes to the engine's defaults, or "
            "has others than a decoder's: of a larger model give the config.json of its language "
            "model alone"
        )
    try:
        return predictor_of(
            config,
            gpu,
            dtype=question.dtype,
            chunked_prefill=question.chunked_prefill,
            workload=Workload(question.prompt_tokens, question.output_tokens),
        )
    except ModelError as error:
        raise PlanError(f"--dtype {question.dtype}: {error.message}") from None
    except KeyError:
        raise PlanError(
            f"--dtype {question.dtype}: {gpu.name} does not multiply it: use one of "
            f"{', '.join(gpu.teraflops)}"
        ) from None
    except ValueError as error:
        raise PlanError(f"--model-config {question.config_path}: {error}") from None


def _counts(option: str, given: str, most: int) -> list[int]:
    """``1,2,4``; each once, in the order given."""
    counts: dict[int, None] = {}
    for part in given.split(","):
        value = int(part) if part.strip().isascii() and part.strip().isdigit() else 0
        if not 1 <= value <= most:
            raise PlanError(
                f"{option} {given}: {part.strip()!r} is no whole number from 1 to {most:,}: write "
                "such as 1,2,4"
            )
        counts[value] = None
    return list(counts)


def _model_name(question: Question) -> str:
    given = json.loads(question.config_text).get("_name_or_path")
    return given if isinstance(given, str) and given else question.config_path


def _point(prediction: Prediction) -> OperatingPoint | None:
    figures = prediction.figures
    if figures is None:
        return None
    return OperatingPoint.without_window(
        Probe(prediction.replicas, prediction.replicas, prediction.max_num_seqs),
        figures.tokens_per_second,
        figures.watts,
        simulated=prediction.origin != "measured",
    )


def _layout(one: Prediction) -> dict[str, Any]:
    figures = one.figures
    return {
        "replicas": one.replicas,
        "maxNumSeqs": one.max_num_seqs,
        "outputTokensPerSecond": None if figures is None else round(figures.tokens_per_second, 1),
        "powerWatts": None if figures is None else round(figures.watts, 1),
        "microjoulesPerOutputToken": None
        if figures is None
        else round(figures.watts / figures.tokens_per_second * 1e6),
        "itlMeanMs": None if figures is None else round(figures.itl_seconds * 1000, 3),
        "kvCacheBytesPerReplica": one.kv_cache_bytes,
        "feasible": figures is not None,
        "why": one.why,
        "origin": one.origin,
    }


def _name(point: OperatingPoint) -> dict[str, int]:
    return {"replicas": point.probe.replicas, "maxNumSeqs": point.probe.max_num_seqs}


def _cells(one: Prediction) -> Sequence[str]:
    figures, kv_bytes = one.figures, one.kv_cache_bytes
    if figures is None or kv_bytes is None:
        return [UNKNOWN] * 5
    return [
        f"{figures.tokens_per_second:,.0f}",
        f"{figures.watts:,.0f}",
        f"{figures.watts / figures.tokens_per_second:.4f}",
        f"{figures.itl_seconds * 1000:.1f} ms",
        human(kv_bytes),
    ]
