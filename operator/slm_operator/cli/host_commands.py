"""The commands that run the product's parts on this host."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from slm_operator.cli.interrupts import Interrupted
from slm_operator.cli.outcome import DemoFailedError, Options, Outcome, document
from slm_operator.cli.output_file import OutputFileError
from slm_operator.cli.progress import summary
from slm_operator.cli.terminal import Output, OutputOption, console, fail


class EngineChoice(StrEnum):
    SIMULATED = "simulated"
    VLLM = "vllm"


MinWindowOption = Annotated[
    float | None,
    typer.Option(min=1, hidden=True, help="Shortest measurement, where precision is no need."),
]


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
    min_window_seconds: MinWindowOption = None,
) -> None:
    """Runs the whole system on this host and finds a pack's Pareto-optimal replica count.

    A real API server, the operator, a node and a pack; clients send requests meanwhile."""
    try:
        from slm_operator.cli import demo as running
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("slm_dev"):
            raise
        fail(
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
        return console().print(summary(outcome, page))

    try:
        running.run(options, console(stderr=output is Output.JSON), present)
    except (DemoFailedError, OutputFileError) as error:
        fail(str(error))
    except Interrupted as interrupted:
        # What was kept running was to be ended so.
        raise typer.Exit(0 if keep and shown else 128 + interrupted.number) from None
