"""``slmctl top``: what the packs of one service, or of all, do now."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from slm_operator.cli import activity as activities
from slm_operator.cli import lookup, packs
from slm_operator.cli.activity import Activity, Reading
from slm_operator.cli.interrupts import Interrupted, until_interrupted
from slm_operator.cli.packs import ServicePack
from slm_operator.cli.tables import SIMULATED_NOTE
from slm_operator.cli.terminal import (
    KubeconfigOption,
    NamespaceOption,
    Output,
    OutputOption,
    console,
    print_json,
)
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Kube
from slm_worker.wire import AGENT_PORT


def top(
    name: Annotated[str | None, typer.Argument(help="An SLMService. Default: all.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Show one interval, and end.")] = False,
    every: Annotated[float, typer.Option(min=1, max=60, help="Seconds of an interval.")] = 2.0,
    namespace: NamespaceOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Shows throughput, power and queues of the packs and their replicas, live until Ctrl-C. It
    reads the packs' metrics through the API server: that takes the right to get pods/proxy."""
    where = namespace or lookup.default_namespace(kubeconfig)
    shown = console()
    live = output is Output.TEXT and not once and shown.is_terminal

    async def show(kube: Kube) -> None:
        before = await _read(kube, where, name)
        if not live:
            await asyncio.sleep(every)
            found = _since(before, await _read(kube, where, name))
            if output is Output.JSON:
                print_json(activities.document(found))
            else:
                shown.print(_picture(found))
            return
        with Live(Text("measuring ..."), console=shown, auto_refresh=False) as display:
            while True:
                await asyncio.sleep(every)
                after = await _read(kube, where, name)
                display.update(_picture(_since(before, after)), refresh=True)
                before = after

    async def watched(kube: Kube) -> None:
        await until_interrupted(show(kube))

    try:
        lookup.run(kubeconfig, watched)
    except Interrupted:
        return


_Read = dict[str, tuple[ServicePack, Reading | str]]
"""By the Pod's UID; a text tells why there is no reading."""


async def _read(kube: Kube, namespace: str, name: str | None) -> _Read:
    async def one(pack: ServicePack) -> Reading | str:
        if not pack.answers:
            trouble = pack.pack.container or pack.pack.scheduling
            return trouble.reason if trouble else "starting"
        try:
            text = await kube.pod_get(namespace, pack.name, AGENT_PORT, "/metrics")
            return activities.read(text)
        except KubeError as error:
            if error.status == 403:
                raise
            return f"no metrics: {error.message}"
        except ValueError:
            return "no metrics: another release's agent"

    found = await packs.of_services(kube, namespace, name)
    readings = await asyncio.gather(*(one(pack) for pack in found))
    return {p.pack.uid: (p, r) for p, r in zip(found, readings, strict=True)}


def _since(before: _Read, after: _Read) -> list[Activity]:
    found = []
    for uid, (pack, new) in after.items():
        old = before[uid][1] if uid in before else new
        if isinstance(new, str):
            found.append(Activity(pack.service, pack.name, pack.simulated, silent=new))
            continue
        old = new if isinstance(old, str) else old
        found.append(activities.activity(pack.service, pack.name, pack.simulated, old, new))
    return found


def _picture(found: list[Activity]) -> RenderableType:
    parts: list[RenderableType] = [activities.table(found)]
    if any(p.simulated for p in found):
        parts += [Text(), Text(SIMULATED_NOTE, style="yellow")]
    return Group(*parts)
