"""slmctl rollout: where a change of the packs' template stands; pause, resume and undo it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from slm_operator.api.models import SLMService
from slm_operator.api.status import TemplateStatus
from slm_operator.cli import lookup
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
from slm_operator.cluster.kube import Kube
from slm_operator.decide.rollout import template_fields

app = typer.Typer(
    name="rollout",
    help="Shows, pauses, resumes or takes back a change of a service's model, engine or GPU.",
    no_args_is_help=True,
)
NameArgument = Annotated[str, typer.Argument(help="An SLMService.")]


class NothingToUndoError(Exception):
    """There is no template to go back to; the message says why."""


@app.command()
def status(
    name: NameArgument,
    namespace: NamespaceOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Shows how far the rollout is. Ends with 1 when it was rolled back or stands still."""
    where = namespace or lookup.default_namespace(kubeconfig)
    service = lookup.read(lookup.find(kubeconfig, where, name))
    rollout, said = service.status.rollout, service.status.condition("Progressing")
    if rollout is None or said is None:
        fail(f"the operator has not looked at {name} yet: see that it runs")
    if output is Output.JSON:
        print_json(
            {
                "name": name,
                "phase": rollout.phase,
                "packs": service.status.packs,
                "updatedPacks": rollout.updated_packs,
                "reason": said.reason,
                "message": said.message,
            }
        )
    else:
        packs = f"{rollout.updated_packs} of {service.status.packs} packs updated"
        console().print(f"{name}: {rollout.phase} ({packs})\n{said.message}")
        if rollout.phase == "Progressing" and rollout.why:
            console().print(f"The first pack passed: {rollout.why}")
    if said.status == "False":
        raise typer.Exit(1)


@app.command()
def undo(
    name: NameArgument, namespace: NamespaceOption = None, kubeconfig: KubeconfigOption = None
) -> None:
    """Writes the template before into the spec: the one that runs while a change is tried or was
    rolled back, else the one before the last rollout."""
    where = namespace or lookup.default_namespace(kubeconfig)
    service = lookup.read(lookup.find(kubeconfig, where, name))
    try:
        spec = undoing(service)
    except NothingToUndoError as error:
        fail(str(error))
    _patch(name, namespace, kubeconfig, spec)
    say(f"{name}: {', '.join(f'spec.{field}' for field in spec)} as before")


@app.command()
def pause(
    name: NameArgument, namespace: NamespaceOption = None, kubeconfig: KubeconfigOption = None
) -> None:
    """Keeps all packs as they are, whatever the spec says."""
    _patch(name, namespace, kubeconfig, {"rollout": {"paused": True}})
    say(f"{name}: paused; `slmctl rollout resume {name}` goes on")


@app.command()
def resume(
    name: NameArgument, namespace: NamespaceOption = None, kubeconfig: KubeconfigOption = None
) -> None:
    """Goes on with what was paused."""
    _patch(name, namespace, kubeconfig, {"rollout": {"paused": False}})
    say(f"{name}: resumed")


def undoing(service: SLMService) -> dict[str, Any]:
    """The merge patch of the spec that brings the template before back. Raises
    NothingToUndoError."""
    rollout, now = service.status.rollout, template_fields(service)
    kept = (rollout.stable, rollout.previous) if rollout is not None else ()
    before: TemplateStatus | None = next((t for t in kept if t and t.spec != now), None)
    if before is None:
        raise NothingToUndoError(
            f"{service.name} has run no other template: change spec.model, spec.engine or spec.gpu"
        )
    return {
        field: replacing(now.get(field), before.spec.get(field))
        for field in sorted({*now, *before.spec})
        if now.get(field) != before.spec.get(field)
    }


def replacing(now: Any, wanted: Any) -> Any:
    """The JSON merge patch that makes ``wanted`` of ``now``."""
    if not (isinstance(now, dict) and isinstance(wanted, dict)):
        return wanted
    return {
        key: replacing(now.get(key), wanted.get(key))
        for key in sorted({*now, *wanted})
        if now.get(key) != wanted.get(key)
    }


def _patch(name: str, namespace: str | None, kubeconfig: Any, spec: dict[str, Any]) -> None:
    where = namespace or lookup.default_namespace(kubeconfig)

    async def patch(kube: Kube) -> None:
        obj = await lookup.service(kube, where, name)
        await kube.merge(obj, {"spec": spec})

    lookup.run(kubeconfig, patch)
