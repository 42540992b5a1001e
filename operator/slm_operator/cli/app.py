"""slmctl's command line."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console

from slm_operator.api.models import SLMService
from slm_operator.cli import choose as choosing
from slm_operator.cli import lookup, points_file, tables
from slm_operator.cli import plan as planning
from slm_operator.cli.outcome import DemoFailedError, Options, Outcome, document
from slm_operator.cli.progress import summary
from slm_operator.cluster.kube import Object
from slm_operator.pareto.objective import Limits, Objective


class Output(StrEnum):
    TEXT = "text"
    JSON = "json"


class EngineChoice(StrEnum):
    SIMULATED = "simulated"
    VLLM = "vllm"


class ObjectiveChoice(StrEnum):
    BALANCED = "Balanced"
    MAX_THROUGHPUT = "MaxThroughput"
    MIN_ENERGY = "MinEnergyPerToken"


NamespaceOption = Annotated[
    str | None,
    typer.Option(
        "--namespace", "-n", help="Namespace. Default: that of the kubeconfig's current context."
    ),
]
KubeconfigOption = Annotated[
    Path | None,
    typer.Option(
        exists=True, dir_okay=False, help="Kubeconfig file. Default: KUBECONFIG, as for kubectl."
    ),
]
OutputOption = Annotated[
    Output,
    typer.Option("--output", "-o", help="json prints one document on stdout and nothing else."),
]

app = typer.Typer(
    name="slmctl",
    help="Look at SLMServices and at what the operator measured; run the demo.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def get(
    name: Annotated[str | None, typer.Argument(help="An SLMService. Default: all.")] = None,
    namespace: NamespaceOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Shows services, or one of them with its conditions and decisions."""
    where = namespace or lookup.default_namespace(kubeconfig)
    try:
        if name is not None:
            obj = lookup.run(kubeconfig, lambda kube: lookup.service(kube, where, name))
            return _show_one(obj, output)
        objects = lookup.run(kubeconfig, lambda kube: lookup.services(kube, where))
    except lookup.LookupFailedError as error:
        _fail(str(error))
    if output is Output.JSON:
        return _print_json({"items": objects})
    if not objects:
        return _say(f"no SLMService in namespace {where}")
    now = datetime.now(UTC)
    rows = [(_read(o), tables.age(o["metadata"]["creationTimestamp"], now)) for o in objects]
    return _console().print(tables.services_table(rows))


@app.command()
def points(
    name: Annotated[str, typer.Argument(help="An SLMService.")],
    namespace: NamespaceOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Shows every measured point of a service, the frontier, and why one was chosen."""
    where = namespace or lookup.default_namespace(kubeconfig)
    try:
        obj = lookup.run(kubeconfig, lambda kube: lookup.service(kube, where, name))
    except lookup.LookupFailedError as error:
        _fail(str(error))
    service = _read(obj)
    status, now = service.status, tables.measuring(service.status)
    if not status.frontier:
        _fail(f"no point of {name} has been measured yet: {now or tables.standing(service)}")
    if output is Output.JSON:
        stored = obj["status"]
        return _print_json(
            {
                "name": name,
                "namespace": where,
                "simulated": any(p.simulated for p in status.frontier),
                "calibration": stored.get("calibration"),
                "recommendedReplicasPerPack": stored.get("recommendedReplicasPerPack"),
                "points": stored["frontier"],
            }
        )
    console = _console()
    console.print(tables.points_table(status.frontier))
    console.print()
    console.print(tables.frontier(status.frontier))
    console.print()
    console.print(tables.reasons(status.frontier))
    console.print()
    return console.print(now or tables.standing(service))


@app.command()
def choose(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            help="CSV with model, replicas, max_num_seqs, output_tok_s, power_mean_w (blank where "
            "unknown) and, for --slo-itl-p99, itl_p99_ms. Other columns are ignored.",
        ),
    ],
    objective: Annotated[
        ObjectiveChoice, typer.Option(help="Which point wins.")
    ] = ObjectiveChoice.BALANCED,
    slo_itl_p99: Annotated[
        str | None, typer.Option(help="Longest time between tokens, such as 50ms.")
    ] = None,
    power_budget: Annotated[float | None, typer.Option(min=1, help="Watts of one GPU.")] = None,
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
        )
    except ValueError as error:
        _fail(f"--slo-itl-p99: {error}")
    try:
        rows = points_file.parse(
            file.read_text(encoding="utf-8-sig"), (points_file.ITL_P99,) if slo_itl_p99 else ()
        )
    except (points_file.PointsFileError, UnicodeDecodeError) as error:
        _fail(f"{file}: {error}")
    found = choosing.choices(rows, wanted, limits)
    if output is Output.JSON:
        return _print_json(choosing.document(found))
    return _console().print(choosing.text(found))


@app.command()
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
        _fail(f"--model-config {model_config}: {error}: use the model's config.json")
    except planning.PlanError as error:
        _fail(str(error))
    if output is Output.JSON:
        return _print_json(planning.document(found))
    return _console().print(planning.text(found))


@app.command()
def gpus(output: OutputOption = Output.TEXT) -> None:
    """Lists the GPUs that plan knows, and where their figures come from."""
    if output is Output.JSON:
        return _print_json(planning.catalogue_document())
    return _console().print(planning.catalogue_text())


@app.command()
def demo(
    engine: Annotated[
        EngineChoice,
        typer.Option(
            envvar="ENGINE",
            help="simulated: no GPU and no model needed. vllm: real vLLM with a small real model "
            "on this host's CPU.",
        ),
    ] = EngineChoice.SIMULATED,
    output: OutputOption = Output.TEXT,
    keep: Annotated[
        bool,
        typer.Option("--keep", envvar="KEEP", help="Leave it running after the decision."),
    ] = False,
    kill_operator: Annotated[
        bool,
        typer.Option(
            "--kill-operator",
            help="Kill the operator in mid-search, to see the search go on after it.",
        ),
    ] = False,
    min_window_seconds: Annotated[
        float | None,
        typer.Option(min=1, hidden=True, help="Shortest measurement, where precision is no need."),
    ] = None,
) -> None:
    """Runs the whole system on this host and finds a pack's Pareto-optimal replica count.

    A real API server, the operator, a node and a pack; clients send requests meanwhile."""
    try:
        from slm_operator.cli import demo as running
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("slm_dev"):
            raise
        _fail(
            "the demo is not part of the installed package: clone the project's repository and "
            "run `make demo` there"
        )
    options = Options(engine.value, keep, kill_operator, min_window_seconds)
    shown = False

    def present(outcome: Outcome, page: Path) -> None:
        nonlocal shown
        shown = True
        if output is Output.JSON:
            return print(json.dumps(document(outcome)), flush=True)
        return _console().print(summary(outcome, page))

    try:
        running.run(options, Console(stderr=output is Output.JSON, highlight=False), present)
    except DemoFailedError as error:
        _fail(str(error))
    except running.Interrupted as interrupted:
        # What was kept running was to be ended so.
        raise typer.Exit(0 if keep and shown else 128 + interrupted.number) from None


def _show_one(obj: Object, output: Output) -> None:
    if output is Output.JSON:
        return _print_json(obj)
    return _console().print(tables.details(_read(obj)))


def _read(obj: Object) -> SLMService:
    try:
        return SLMService.from_object(obj)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        _fail(
            f"SLMService {obj['metadata']['name']} does not fit this slmctl ({field}: "
            f"{first['msg']}): use the slmctl of the operator's release"
        )


def _console() -> Console:
    return Console(highlight=False)


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=2))


def _say(message: str) -> None:
    print(message, file=sys.stderr)


def _fail(message: str) -> NoReturn:
    _say(f"slmctl: {message}")
    raise typer.Exit(1)


def main() -> None:
    """Also `kubectl slm`, by the name kubectl-slm."""
    app()
