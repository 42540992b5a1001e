"""slmctl's command line: every command by its name."""

from __future__ import annotations

import sys
from io import TextIOWrapper

import typer

from slm_operator.cli import (
    cluster_commands,
    file_commands,
    host_commands,
    local_command,
    logs_command,
    profile_commands,
    recommend_command,
    rollout_commands,
    simulate_command,
    top_command,
)

app = typer.Typer(
    name="slmctl",
    help="Look at SLMServices and at what the operator measured; find a knee on this host.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    cluster_commands.get,
    cluster_commands.points,
    cluster_commands.explain,
    cluster_commands.history,
    recommend_command.recommend,
    logs_command.logs,
    top_command.top,
    file_commands.choose,
    file_commands.plan,
    file_commands.gpus,
    simulate_command.simulate,
    local_command.local,
    host_commands.demo,
):
    app.command()(command)
app.add_typer(profile_commands.app)
app.add_typer(rollout_commands.app)


def main() -> None:
    """Also `kubectl slm`, by the name kubectl-slm."""
    # Where the locale has no ◆ or ±, a figure without them is better than none.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    app()
