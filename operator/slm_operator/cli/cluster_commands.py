"""The commands that look at services in a cluster."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.text import Text

from slm_operator.cli import account as accounts
from slm_operator.cli import explain as explaining
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
from slm_operator.cluster.kube import Object
from slm_operator.decide.explanation import decision_id


def get(
    name: Annotated[str | None, typer.Argument(help="An SLMService. Default: all.")] = None,
    namespace: NamespaceOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Shows services, or one of them with its conditions and decisions."""
    where = namespace or lookup.default_namespace(kubeconfig)
    if name is not None:
        return _show_one(lookup.find(kubeconfig, where, name), output)
    objects = lookup.run(kubeconfig, lambda kube: lookup.services(kube, where))
    if output is Output.JSON:
        return print_json({"items": objects})
    if not objects:
        return say(f"no SLMService in namespace {where}")
    now = datetime.now(UTC)
    rows = [(lookup.read(o), tables.age(o["metadata"]["creationTimestamp"], now)) for o in objects]
    return console().print(tables.services_table(rows))


def points(
    name: Annotated[str, typer.Argument(help="An SLMService.")],
    namespace: NamespaceOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Shows every measured point of a service, the frontier, and why one was chosen."""
    where = namespace or lookup.default_namespace(kubeconfig)
    obj = lookup.find(kubeconfig, where, name)
    service = lookup.read(obj)
    status, now = service.status, tables.measuring(service.status)
    if not status.frontier:
        fail(f"no point of {name} has been measured yet: {now or tables.standing(service)}")
    if output is Output.JSON:
        stored = obj["status"]
        return print_json(
            {
                "name": name,
                "namespace": where,
                "simulated": any(p.simulated for p in status.frontier),
                "calibration": stored.get("calibration"),
                "recommendedReplicasPerPack": stored.get("recommendedReplicasPerPack"),
                "points": stored["frontier"],
            }
        )
    shown = console()
    shown.print(tables.findings(status.frontier))
    shown.print()
    return shown.print(now or tables.standing(service))


def explain(
    name: Annotated[str, typer.Argument(help="An SLMService.")],
    namespace: NamespaceOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Explains what a service runs: the rule that chose it, with its figures, what spoke against
    each alternative, what would change the decision, and the last ten decisions."""
    where = namespace or lookup.default_namespace(kubeconfig)
    service = lookup.read(lookup.find(kubeconfig, where, name))
    try:
        told = accounts.account(service)
    except accounts.NotExplainedError as error:
        fail(str(error))
    if output is Output.JSON:
        return print_json(accounts.document(told))
    return console().print(explaining.text(told, datetime.now(UTC)))


def history(
    name: Annotated[str, typer.Argument(help="An SLMService.")],
    namespace: NamespaceOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Shows the last ten decisions about a service, each with its rule and its figures."""
    where = namespace or lookup.default_namespace(kubeconfig)
    obj = lookup.find(kubeconfig, where, name)
    service = lookup.read(obj)
    if output is Output.JSON:
        kept = (obj.get("status") or {}).get("history") or []
        ids = (decision_id(service.uid, entry) for entry in service.status.history)
        history = [{"id": known_as} | each for known_as, each in zip(ids, kept, strict=True)]
        return print_json({"name": name, "namespace": where, "history": history})
    if not service.status.history:
        now = tables.measuring(service.status) or tables.standing(service)
        return say(f"nothing has been decided for {name} yet: {now}")
    shown = console()
    shown.print(explaining.decisions(service, datetime.now(UTC)))
    return shown.print(Text(f"\n{explaining.RULES}"))


def _show_one(obj: Object, output: Output) -> None:
    if output is Output.JSON:
        return print_json(obj)
    return console().print(tables.details(lookup.read(obj)))
