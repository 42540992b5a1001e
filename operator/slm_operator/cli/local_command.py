"""The command that finds a model's knee on this host, without a cluster."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from slm_operator.cli import output_file
from slm_operator.cli.choose import seconds
from slm_operator.cli.host_commands import EngineChoice, MinWindowOption
from slm_operator.cli.interrupts import Interrupted
from slm_operator.cli.local import answer as answering
from slm_operator.cli.local.host import nvidia_answers
from slm_operator.cli.local.passes import window_rules
from slm_operator.cli.local.request import LocalError, Request, gpu_kind, manifest, model_uri
from slm_operator.cli.local.run import Settings, run
from slm_operator.cli.output_file import OutputFileError
from slm_operator.cli.terminal import ObjectiveChoice, console, fail, say
from slm_worker.wire import MAX_NUM_SEQS, MAX_REPLICAS_PER_PACK


class DeviceChoice(StrEnum):
    AUTO = "auto"
    NVIDIA = "nvidia"
    CPU = "cpu"
    SIMULATED = "simulated"


class LocalOutput(StrEnum):
    TEXT = "text"
    JSON = "json"
    YAML = "yaml"


def local(
    model: Annotated[
        str,
        typer.Argument(
            help="A directory, file:///PATH, hf://ORGANISATION/NAME, or opt-1.3b for a first look "
            "on the simulated GPU."
        ),
    ],
    engine_args: Annotated[
        list[str] | None,
        typer.Argument(help="Arguments of the engine, after --, such as --max-model-len=2048."),
    ] = None,
    gpu: Annotated[
        DeviceChoice,
        typer.Option(help="auto: NVIDIA when its driver shows a GPU, otherwise this host's CPU."),
    ] = DeviceChoice.AUTO,
    engine: Annotated[
        EngineChoice | None,
        typer.Option(help="Default: vllm, or simulated on the simulated GPU."),
    ] = None,
    max_num_seqs: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_NUM_SEQS,
            help="Most sequences that one replica batches. Default: 256, and larger batches are "
            "part of the search.",
        ),
    ] = None,
    max_replicas: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_REPLICAS_PER_PACK, help="Most replicas that are tried. Default: 8."
        ),
    ] = None,
    objective: Annotated[
        ObjectiveChoice | None, typer.Option(help="Which point wins. Default: Balanced.")
    ] = None,
    slo_ttft_p95: Annotated[
        str | None,
        typer.Option(help="Longest time to the first token of a full pack, such as 500ms."),
    ] = None,
    slo_itl_p95: Annotated[
        str | None, typer.Option(help="Longest time between two tokens, such as 50ms.")
    ] = None,
    power_budget: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Watts of the GPU.")
    ] = None,
    prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="Mean length of your prompts. Default: 128.")
    ] = None,
    output_tokens: Annotated[
        int | None, typer.Option(min=1, help="Mean length of your answers. Default: 256.")
    ] = None,
    output: Annotated[
        LocalOutput,
        typer.Option(
            "--output",
            "-o",
            help="json and yaml print one document on stdout and nothing else; yaml is the "
            "SLMService.",
        ),
    ] = LocalOutput.TEXT,
    write: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Also write the SLMService to this file.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Serve on after the decision, until Ctrl-C.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Of the router, on 127.0.0.1. Default: 8000, or any free one."
        ),
    ] = None,
    min_window_seconds: MinWindowOption = None,
) -> None:
    """Finds a model's Pareto-optimal replicas on this host, without a cluster.

    The same agent and the same decision as in a cluster. Ends with the SLMService for one."""
    shown = False

    def present(answer: answering.Answer) -> None:
        nonlocal shown
        shown = True
        object_text = answering.manifest_text(answer)
        if output is LocalOutput.JSON:
            print(json.dumps(answering.document(answer)), flush=True)
        else:
            if output is LocalOutput.TEXT:
                console().print(answering.text(answer))
            print(object_text, end="", flush=True)
        # What was measured for long is shown already when the file turns out to be out of reach.
        if write is not None:
            output_file.write("--write", write, object_text)

    progress = console(stderr=output is not LocalOutput.TEXT)
    try:
        if write is not None:
            output_file.check("--write", write)
        wanted = manifest(
            Request(
                model_uri=model_uri(model, Path.cwd()),
                gpu=gpu_kind(gpu.value, engine and engine.value, nvidia_answers),
                engine_args=tuple(engine_args or ()),
                max_num_seqs=max_num_seqs,
                max_replicas=max_replicas,
                objective=objective and objective.value,
                ttft_p95=_duration("--slo-ttft-p95", slo_ttft_p95),
                itl_p95=_duration("--slo-itl-p95", slo_itl_p95),
                power_budget_watts=power_budget,
                prompt_tokens=prompt_tokens,
                output_tokens=output_tokens,
            )
        )
        run(wanted, Settings(keep, port, window_rules(min_window_seconds)), progress, present)
    except LocalError as error:
        if error.log:
            say(f"\nThe pack's log ends:\n{error.log}\n")
        fail(str(error))
    except OutputFileError as error:
        fail(str(error))
    except Interrupted as interrupted:
        raise typer.Exit(0 if keep and shown else 128 + interrupted.number) from None


def _duration(option: str, given: str | None) -> str | None:
    """As spec.autoscaling.slo takes it. Raises LocalError."""
    if given is None:
        return None
    try:
        seconds(given)
    except ValueError as error:
        raise LocalError(f"{option}: {error}") from None
    return given.strip()
