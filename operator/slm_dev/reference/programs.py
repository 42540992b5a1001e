"""The pages of the command lines: slmctl's, and those of the programs in the images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import typer

from slm_dev.reference.attributes import attribute_docs
from slm_dev.reference.markdown import block, cell, code, page, table
from slm_operator import main as operator
from slm_operator.activator import main as activator
from slm_operator.activator.wire import TOKEN_LENGTH, TOKEN_VARIABLE
from slm_operator.cli.app import app
from slm_worker import __main__ as agent
from slm_worker import settings, wire

AGENT_DEFAULTS = {
    wire.CONFIG_VARIABLE: "required",
    wire.TOKEN_FILE_VARIABLE: "required",
    wire.ADDRESS_VARIABLE: code(settings.DEFAULT_ADDRESS),
    wire.CACHE_VARIABLE: "`$HOME/.cache/slm-engines`",
    wire.AGENT_PORT_VARIABLE: code(str(wire.AGENT_PORT)),
    wire.ROUTER_PORT_VARIABLE: code(str(wire.ROUTER_PORT)),
}


def slmctl() -> str:
    return page(
        "slmctl",
        "Also `kubectl slm`, where it is on PATH as `kubectl-slm`. `slmctl COMMAND --help` shows "
        "the same.",
        *_commands(typer.main.get_command(app), "slmctl"),
    )


def programs() -> str:
    return page(
        "Programs of the images",
        "The chart sets what a cluster needs: [its values](../../charts/slm-operator/README.md).",
        "## slm-operator",
        *_command(operator.start, "slm-operator"),
        f"The key comes from `{operator.KEY_FILE_VARIABLE}` or `{operator.KEY_VARIABLE}`, and with "
        f"`--activator-url` the activator's token from `{TOKEN_VARIABLE}`.",
        "## slm-activator",
        *_command(activator.start, "slm-activator"),
        f"`{TOKEN_VARIABLE}` holds the token that the operator sends: at least {TOKEN_LENGTH} "
        "characters, the same for both.",
        "## The agent",
        "`python -m slm_worker` has no options. Into each pack's Pod the operator writes "
        f"`{wire.CONFIG_VARIABLE}`, `{wire.TOKEN_FILE_VARIABLE}` and `{wire.ADDRESS_VARIABLE}`; "
        "the others are for an agent outside a cluster, since an SLMService may not set them. "
        + cell((agent.__doc__ or "").partition("\n\n")[2]),
        table(("variable", "default", ""), _variables()),
        f"`{wire.CONFIG_VARIABLE}` is a [PackConfig](agent-api.md#packconfig).",
    )


def _command(start: Callable[..., None], name: str) -> Iterator[str]:
    alone = typer.Typer(add_completion=False)
    alone.command()(start)
    yield from _usage(typer.main.get_command(alone), name)


def _commands(command: Any, name: str) -> Iterator[str]:
    """``command`` and those below it, a heading each."""
    below = getattr(command, "commands", {})
    if below:
        yield cell(command.help or "")
    else:
        yield f"## {name}"
        yield from _usage(command, name)
    for each, inner in below.items():
        yield from _commands(inner, f"{name} {each}")


def _usage(command: Any, name: str) -> Iterator[str]:
    context = typer.Context(command, info_name=name)
    yield cell(command.help or "")
    yield block(command.get_usage(context).removeprefix("Usage: "))
    # A hidden option has no record.
    records = list(filter(None, (each.get_help_record(context) for each in command.params)))
    if records:
        rows = ((code(option), said) for option, said in records)
        yield table(("argument or option", ""), rows)


def _variables() -> Iterator[tuple[str, ...]]:
    """Raises KeyError for a variable of the agent without a default here."""
    for constant, said in attribute_docs(wire)[""].items():
        if constant.endswith("_VARIABLE"):
            variable = getattr(wire, constant)
            words = said.replace(":class:`PackConfig`", "PackConfig")
            yield code(variable), AGENT_DEFAULTS[variable], words
