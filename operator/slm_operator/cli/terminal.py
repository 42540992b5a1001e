"""What slmctl's commands share: options, and the ways in which they answer and refuse."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console, ConsoleDimensions

PIPE_COLUMNS = 10_000
"""No line is cut or broken for whoever reads a pipe or a file."""


class Output(StrEnum):
    TEXT = "text"
    JSON = "json"


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


def console(*, stderr: bool = False) -> Console:
    """Shows text letter for letter: what a cluster says has brackets and colons of its own."""
    shown = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    columns = os.environ.get("COLUMNS", "")
    # The console takes also what shows colours for a terminal, as a log of CI does.
    if not shown.file.isatty() and not (columns.isdigit() and int(columns)):
        # Of a dumb terminal it takes a width alone for nothing.
        shown.size = ConsoleDimensions(PIPE_COLUMNS, shown.height)
    return shown


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=2))


def say(message: str) -> None:
    print(message, file=sys.stderr)


def fail(message: str) -> NoReturn:
    say(f"slmctl: {message}")
    raise typer.Exit(1)
