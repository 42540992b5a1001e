"""``slmctl logs``: what the agents and replicas of a service's packs wrote, for people."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from http import HTTPStatus
from itertools import groupby
from operator import itemgetter
from typing import Annotated, Any

import typer

from slm_operator.cli import lookup, packs
from slm_operator.cli.interrupts import Interrupted, until_interrupted
from slm_operator.cli.packs import ServicePack
from slm_operator.cli.terminal import KubeconfigOption, NamespaceOption, say
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Kube

RETRY_SECONDS = 2.0
"""How often a pack that has no log yet is asked again."""
MOST_LINES = 100_000
"""Of each pack; they are held in memory to be put in order."""


def logs(
    name: Annotated[str, typer.Argument(help="An SLMService.")],
    pack: Annotated[int | None, typer.Option(min=0, help="Only this pack, by its number.")] = None,
    replica: Annotated[
        int | None, typer.Option(min=0, help="Only what is about this replica of each pack.")
    ] = None,
    tail: Annotated[
        int, typer.Option(min=1, max=MOST_LINES, help="So many of the last lines of each pack.")
    ] = 200,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    namespace: NamespaceOption = None,
    kubeconfig: KubeconfigOption = None,
) -> None:
    """Shows the logs of a service's packs, replica by replica, in the order of time. The raw lines
    are JSON: kubectl logs shows them."""
    where = namespace or lookup.default_namespace(kubeconfig)

    async def show(kube: Kube) -> None:
        found = await packs.of_services(kube, where, name)
        chosen = [p for p in found if pack is None or p.pack.ordinal == pack]
        if not chosen:
            there = ", ".join(str(p.pack.ordinal) for p in found)
            raise lookup.LookupFailedError(
                f"SLMService {name} has no pack {pack}: there are {there}"
            )
        if follow:
            await until_interrupted(follow_packs(kube, where, chosen, replica, tail))
        else:
            for line in in_order(await read_packs(kube, where, chosen, tail), replica):
                print(line)

    try:
        lookup.run(kubeconfig, show)
    except Interrupted:
        say("ended")


def in_order(lines: Iterable[tuple[str, str]], replica: int | None) -> list[str]:
    """(pack, line) of several packs, one after another, as text by time. What has no time stays
    behind the line of its pack that it followed, or before the first that has one."""
    found: list[tuple[str, str]] = []
    for pack, own in groupby(lines, key=itemgetter(0)):
        records = [(line, _record(line)) for _, line in own]
        time = next((record["time"] for _, record in records if "time" in record), "")
        for line, record in records:
            time = record.get("time", time)
            text = readable(pack, line, replica)
            if text is not None:
                found.append((str(time), text))
    return [text for _, text in sorted(found, key=lambda each: each[0])]


def readable(pack: str, line: str, replica: int | None = None) -> str | None:
    """One line for people; None when it is not about ``replica``. What is no JSON of the agent's is
    shown as it is."""
    record = _record(line)
    about = record.get("replica")
    if replica is not None and about != replica:
        return None
    if "message" not in record:
        return f"{pack}  {line}"
    who = pack if about is None else f"{pack} replica {about}"
    level = str(record.get("level", "")).upper()
    text = f"{record.get('time', '')}  {who}  {level:<7} {record['message']}"
    if "exception" in record:
        text += f"\n{record['exception']}"
    return text


def _record(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


async def read_packs(
    kube: Kube, namespace: str, chosen: list[ServicePack], tail: int
) -> list[tuple[str, str]]:
    """(pack, line) of all packs whose logs can be read, and says of the others why not. Raises
    KubeError when none can be."""
    lines: list[tuple[str, str]] = []
    unread: list[tuple[str, KubeError]] = []
    for one in chosen:
        try:
            own = kube.log(namespace, one.name, tail_lines=tail)
            lines += [(one.name, line) async for line in own]
        except KubeError as error:
            unread.append((one.name, error))
    if len(unread) == len(chosen):
        raise unread[-1][1]
    for name, why in unread:
        say(f"the log of {name} cannot be read: {why.message}")
    return lines


async def follow_packs(
    kube: Kube,
    namespace: str,
    chosen: list[ServicePack],
    replica: int | None,
    tail: int,
    retry_seconds: float = RETRY_SECONDS,
) -> None:
    """Shows lines as they come, until each pack has ended. A pack that cannot be followed ends
    alone: the others still have something to say. Raises KubeError when none can be."""
    under_way = len(chosen)

    async def show(one: ServicePack) -> None:
        async for line in kube.log(namespace, one.name, tail_lines=tail, follow=True):
            text = readable(one.name, line, replica)
            if text is not None:
                print(text, flush=True)

    async def one_pack(one: ServicePack) -> KubeError | None:
        nonlocal under_way
        told = False
        while True:
            try:
                await show(one)
            except KubeError as error:
                if error.status != HTTPStatus.BAD_REQUEST:
                    under_way -= 1
                    if under_way:
                        say(f"{one.name} is not followed any more: {error.message}")
                    return error
                if not told:
                    say(f"{one.name} is waiting to start and has no log yet: {error.message}")
                    told = True
                await asyncio.sleep(retry_seconds)
            else:
                under_way -= 1
                return None

    # Not a TaskGroup, whose ExceptionGroup hides what a closed pipe raises from whoever handles it.
    ends = await asyncio.gather(*(one_pack(one) for one in chosen))
    errors = [error for error in ends if error is not None]
    if len(errors) == len(chosen):
        raise errors[-1]
