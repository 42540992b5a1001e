"""slmctl profile: what services of a namespace measured, and left to the next ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from slm_operator.cli import lookup, tables
from slm_operator.cli.terminal import (
    KubeconfigOption,
    NamespaceOption,
    Output,
    OutputOption,
    console,
    fail,
    print_json,
    say,
)
from slm_operator.cluster.profiles import CONFIG_MAP, entries
from slm_operator.decide.profile_record import Profile, ProfileError, decode

app = typer.Typer(
    name="profile",
    help="Lists, shows and removes what services measured, from which new ones begin.",
    no_args_is_help=True,
)
NameArgument = Annotated[
    str,
    typer.Argument(metavar="NAME", help="A profile's name as ls shows it, or how it begins."),
]


@dataclass(frozen=True)
class _Entry:
    name: str
    text: str
    profile: Profile | None
    fault: str = ""
    """Why no service can use it."""


@app.command()
def ls(
    namespace: NamespaceOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Lists the profiles of a namespace."""
    where = namespace or lookup.default_namespace(kubeconfig)
    found, now = _entries(kubeconfig, where), datetime.now(UTC)
    if output is Output.JSON:
        return print_json({"items": [_document(entry) for entry in found]})
    if not found:
        return say(f"no profile in namespace {where}: a search that ends leaves one")
    return console().print(_table(found, now))


@app.command()
def show(
    name: NameArgument,
    namespace: NamespaceOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Shows a profile's points, and where they were measured."""
    where = namespace or lookup.default_namespace(kubeconfig)
    entry = _one(_entries(kubeconfig, where), name, where)
    if output is Output.JSON:
        return print_json(_document(entry))
    if entry.profile is None:
        fail(f"profile {entry.name} cannot be used, and services ignore it: {entry.fault}")
    profile, shown = entry.profile, console()
    head = Table.grid(padding=(0, 2))
    for title, text in (
        ("Profile", f"{where}/{entry.name}"),
        ("Model", profile.model),
        ("GPU", profile.gpu),
        ("Requests", f"{profile.prompt_tokens} prompt and {profile.output_tokens} output tokens"),
        ("Knee", _knee(profile)),
        ("Measured", f"by {profile.written_by}, written {profile.written_at}"),
    ):
        head.add_row(Text(title, style="bold"), text)
    for part in (head, Text(), tables.points_table(profile.points), Text()):
        shown.print(part)
    return shown.print(tables.frontier(profile.points))


@app.command()
def rm(
    name: NameArgument,
    namespace: NamespaceOption = None,
    kubeconfig: KubeconfigOption = None,
) -> None:
    """Removes a profile: the next service of its configuration searches."""
    where = namespace or lookup.default_namespace(kubeconfig)
    entry = _one(_entries(kubeconfig, where), name, where)
    reference = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CONFIG_MAP, "namespace": where},
    }
    patch = {"data": {entry.name: None}}
    lookup.run(kubeconfig, lambda kube: kube.merge(reference, patch))
    say(f"profile {entry.name} removed from namespace {where}")


def _entries(kubeconfig: Path | None, namespace: str) -> list[_Entry]:
    found = lookup.run(kubeconfig, lambda kube: entries(kube, namespace))
    return [_read(name, text) for name, text in sorted(found.items())]


def _read(name: str, text: str) -> _Entry:
    try:
        return _Entry(name, text, decode(name, text, datetime.now(UTC).isoformat()))
    except ProfileError as error:
        return _Entry(name, text, None, str(error))


def _one(found: list[_Entry], name: str, namespace: str) -> _Entry:
    exact = [e for e in found if e.name == name]
    begins = exact or [e for e in found if e.name.startswith(name)]
    names = ", ".join(e.name for e in begins or found)
    if not begins:
        hint = f"there are {names}" if names else "there is none"
        fail(f"namespace {namespace} has no profile {name}: {hint}")
    if len(begins) > 1:
        fail(f"{name} is how several profiles begin: {names}")
    return begins[0]


def _table(found: list[_Entry], now: datetime) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    for title in ("NAME", "MODEL", "GPU", "TOKENS", "KNEE", "POINTS", "BY", "AGE"):
        table.add_column(title, no_wrap=title != "MODEL")
    for entry in found:
        profile = entry.profile
        if profile is None:
            table.add_row(entry.name, Text(f"unusable: {entry.fault}", style="red"))
            continue
        table.add_row(
            entry.name,
            profile.model,
            profile.gpu,
            f"{profile.prompt_tokens}/{profile.output_tokens}",
            _knee(profile),
            str(len(profile.points)),
            profile.written_by,
            tables.age(profile.written_at, now),
        )
    return table


def _knee(profile: Profile) -> str:
    chosen = profile.chosen
    return f"{chosen.replicas_per_pack} x {chosen.max_num_seqs}"


def _document(entry: _Entry) -> dict[str, object]:
    if entry.profile is None:
        return {"name": entry.name, "fault": entry.fault}
    return {"name": entry.name, "profile": json.loads(entry.text)}
