"""The command ``slmctl simulate``: reads its files, shows its progress, prints its answer."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Annotated

import typer

from slm_operator.cli import curves, simulate_page
from slm_operator.cli import simulate as simulating
from slm_operator.cli.terminal import console, fail, print_json
from slm_operator.simulate.study import PolicyError
from slm_operator.simulate.trace import Trace, TraceError, parse, scaled
from slm_worker.planning.measured import STUDY_GPU
from slm_worker.planning.workload import Workload

DEFAULT_POLICIES = ("pareto", "hpa", "hpa+static:2", "static:1")


class SimulateOutput(StrEnum):
    TEXT = "text"
    JSON = "json"
    HTML = "html"


def simulate(
    trace: Annotated[
        Path,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="CSV with TIMESTAMP, ContextTokens, GeneratedTokens: one row a request.",
        ),
    ],
    curves_file: Annotated[
        Path | None,
        typer.Option(
            "--curves",
            exists=True,
            dir_okay=False,
            help="Measured points, with the columns of slmctl choose. Without it, the planner's "
            "for --model-config.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Which model of --curves, if it has several.")
    ] = None,
    model_config: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="config.json of the model: then long prompts and contexts cost what its shape "
            "says. Without it, requests cost what those of the curve did, whatever their length.",
        ),
    ] = None,
    gpu: Annotated[str, typer.Option(help="A name from slmctl gpus.")] = STUDY_GPU,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="pareto (this operator's own), static:N, hpa, keda-queue, wva, aibrix, "
            "aibrix-0.4, hpa-tuned (the best target in hindsight), oracle; peers also as "
            "hpa+static:2. Several times for several.",
        ),
    ] = None,
    rate_scale: Annotated[
        float, typer.Option(min=0.001, help="So many times the requests, in the same time.")
    ] = 1.0,
    gpus: Annotated[str, typer.Option(help="Fewest and most GPUs, such as 1:8.")] = "1:8",
    start_seconds: Annotated[
        float, typer.Option(min=0, max=86_400, help="From asking for a GPU to a pack that serves.")
    ] = 60.0,
    slo_ttft: Annotated[str, typer.Option(help="Longest time to first token.")] = "1s",
    slo_itl: Annotated[
        str, typer.Option(help="Longest mean time between the tokens of a request.")
    ] = "100ms",
    seed: Annotated[int, typer.Option(help="Of all that is left to chance.")] = 1,
    output: Annotated[
        SimulateOutput, typer.Option("--output", "-o", help="html prints a page of its own.")
    ] = SimulateOutput.TEXT,
) -> None:
    """Compares scaling policies on a recorded trace, by simulation: energy, GPU-hours, latency."""
    try:
        recorded = parse(trace.read_text(encoding="utf-8-sig"))
        load = scaled(recorded, rate_scale, Random(seed))  # noqa: S311
    except (TraceError, UnicodeDecodeError) as error:
        fail(f"--trace {trace}: {error}")
    try:
        question = simulating.Question(
            trace_path=str(trace),
            trace=load,
            source=_source(curves_file, model, model_config, gpu, load),
            rate_scale=rate_scale,
            policies=policy or DEFAULT_POLICIES,
            terms=simulating.terms(gpus, start_seconds),
            wanted=simulating.service_level(slo_ttft, slo_itl),
            seed=seed,
        )
        answer = _answer(question)
    except (curves.CurvesError, simulating.SimulateError, PolicyError) as error:
        fail(str(error))
    if output is SimulateOutput.JSON:
        return print_json(simulating.document(answer))
    if output is SimulateOutput.HTML:
        return print(simulate_page.page(answer))
    return console().print(simulating.text(answer))


def _answer(question: simulating.Question) -> simulating.Answer:
    progress = console(stderr=True)
    over = simulating.study(question)
    runs, began = [], time.monotonic()
    with progress.status("simulating") as status:
        for run in simulating.answers(question, over):
            runs.append(run)
            elapsed = time.monotonic() - began
            status.update(f"simulated {', '.join(r.policy for r in runs)} in {elapsed:.0f} s")
        oracle = over.oracle()
    return simulating.Answer(question, tuple(runs), oracle)


def _source(
    curves_file: Path | None,
    model: str | None,
    model_config: Path | None,
    gpu: str,
    load: Trace,
) -> curves.Source:
    config = None if model_config is None else _text("--model-config", model_config)
    if curves_file is not None:
        found = curves.measured(str(curves_file), _text("--curves", curves_file), model, gpu)
        if config is None:
            return found
        return curves.with_lengths(found, str(model_config), config, gpu)
    if config is None:
        raise curves.CurvesError(
            "--curves: not given: give a file of measured points, or --model-config and --gpu for "
            "predicted ones"
        )
    lengths = Workload(load.mean_prompt_tokens, load.mean_output_tokens)
    return curves.predicted(str(model_config), config, gpu, lengths)


def _text(option: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise curves.CurvesError(f"{option} {path}: {error}: it is no text") from None
