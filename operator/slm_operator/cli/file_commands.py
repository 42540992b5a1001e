"""The commands that answer from files, with neither a cluster nor a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slm_operator.cli import choose as choosing
from slm_operator.cli import plan as planning
from slm_operator.cli import points_file
from slm_operator.cli.terminal import (
    ObjectiveChoice,
    Output,
    OutputOption,
    console,
    fail,
    print_json,
)
from slm_operator.pareto.objective import Limits, Objective


def choose(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            help="CSV with model, replicas, max_num_seqs, output_tok_s, power_mean_w (blank where "
            "unknown); --slo-itl-p99 needs itl_p99_ms, --max-preemptions needs preemptions and "
            "prompts. Rows of one point are pooled; other columns are ignored.",
        ),
    ],
    objective: Annotated[
        ObjectiveChoice, typer.Option(help="Which point wins.")
    ] = ObjectiveChoice.BALANCED,
    slo_itl_p99: Annotated[
        str | None, typer.Option(help="Longest time between tokens, such as 50ms.")
    ] = None,
    power_budget: Annotated[float | None, typer.Option(min=1, help="Watts of one GPU.")] = None,
    max_preemptions: Annotated[
        float | None,
        typer.Option(min=0, help="Most preemptions a request, such as 0.1: KV caches run full."),
    ] = None,
    min_throughput_gain_percent: Annotated[
        float, typer.Option(min=0, max=100, help="What each further replica must add.")
    ] = 3,
    max_energy_increase_percent: Annotated[
        float, typer.Option(min=0, max=1000, help="Balanced: over the least energy per token.")
    ] = 5,
    output: OutputOption = Output.TEXT,
) -> None:
    """Chooses the Pareto-optimal point of each model in a file of measurements, as the operator
    would, and says why each other point is not."""
    wanted = Objective(
        objective.value, min_throughput_gain_percent / 100, max_energy_increase_percent / 100
    )
    try:
        limits = Limits(
            itl_p99_seconds=choosing.seconds(slo_itl_p99) if slo_itl_p99 else None,
            power_watts=power_budget,
            preemptions_per_request=max_preemptions,
        )
    except ValueError as error:
        fail(f"--slo-itl-p99: {error}")
    try:
        needed = (points_file.ITL_P99,) if slo_itl_p99 else ()
        if max_preemptions is not None:
            needed = (*needed, *points_file.PREEMPTIONS)
        rows = points_file.parse(file.read_text(encoding="utf-8-sig"), needed)
    except (points_file.PointsFileError, UnicodeDecodeError) as error:
        fail(f"{file}: {error}")
    found = choosing.choices(rows, wanted, limits)
    if output is Output.JSON:
        return print_json(choosing.document(found))
    return console().print(choosing.text(found))


def plan(
    model_config: Annotated[
        Path,
        typer.Option(
            exists=True, dir_okay=False, help="The config.json that was published with the model."
        ),
    ],
    gpu: Annotated[str, typer.Option(help="A name from slmctl gpus.")],
    replicas: Annotated[str, typer.Option(help="Replicas on the GPU, such as 1,2,4.")] = "1,2,3,4",
    max_num_seqs: Annotated[
        str, typer.Option(help="Sequences that each replica runs at once, such as 96,256.")
    ] = "64,128,256",
    prompt_tokens: Annotated[int, typer.Option(help="Mean length of a prompt.")] = 128,
    output_tokens: Annotated[int, typer.Option(help="Mean length of an answer.")] = 256,
    dtype: Annotated[str, typer.Option(help="As vLLM's --dtype.")] = "auto",
    chunked_prefill: Annotated[
        bool, typer.Option(help="Whether prompts are read along with decoding, vLLM's default.")
    ] = True,
    output: OutputOption = Output.TEXT,
) -> None:
    """Predicts, without a GPU, what layouts of a model on a GPU would serve and draw."""
    try:
        found = planning.answer(
            planning.Question(
                config_path=str(model_config),
                config_text=model_config.read_text(encoding="utf-8-sig"),
                gpu=gpu,
                replicas=replicas,
                max_num_seqs=max_num_seqs,
                prompt_tokens=prompt_tokens,
                output_tokens=output_tokens,
                dtype=dtype,
                chunked_prefill=chunked_prefill,
            )
        )
    except UnicodeDecodeError as error:
        fail(f"--model-config {model_config}: {error}: use the model's config.json")
    except planning.PlanError as error:
        fail(str(error))
    if output is Output.JSON:
        return print_json(planning.document(found))
    return console().print(planning.text(found))


def gpus(output: OutputOption = Output.TEXT) -> None:
    """Lists the GPUs that plan knows, and where their figures come from."""
    if output is Output.JSON:
        return print_json(planning.catalogue_document())
    return console().print(planning.catalogue_text())
