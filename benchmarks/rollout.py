"""Requests while packs are rolled out, removed and drained, and the operator is killed: what fails.

The real control plane, operator, agents and HAProxy, on the SIMULATED engine and GPU. Clients send
completions of one token through what plays the Service in front (``rollout_rig.front``), half of
them over connections that they keep. Each scenario goes on until it is over and so many requests
were sent. Run with ``python -m benchmarks.rollout``; ``--requests`` of each scenario.

- ``rollout``: an engine argument changes, and three packs are replaced, each new one first.
- ``rollout_full``: the same with as many packs as the node takes, so that each makes room first.
- ``scale_down``: from three packs to one.
- ``drain``: of two nodes with two packs each, one is emptied by ``kubectl drain``, within the
  PodDisruptionBudget; its packs move to the other.
- ``takeover``: one of three packs shall go, and at that moment the leader of two operators is
  killed by SIGKILL.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from benchmarks import report
from benchmarks.rollout_rig.clients import Clients, Count
from benchmarks.rollout_rig.drain import drain, packs_by_node
from benchmarks.rollout_rig.rig import (
    ELECTION,
    SELECTOR,
    SERVICE,
    SPEC,
    Rig,
    rig,
    stands,
    until,
)
from slm_dev.controlplane import find_or_build
from slm_dev.local_node.node import NODE_NAME
from slm_dev.program import Program
from slm_dev.stack import SECOND_NODE, Stack, StackSettings

NAME = "rollout"
REQUESTS = 100_000
CLIENTS = 48
PACKS = 3
MOST_PODS = PACKS + 1
"""That a node runs: one more than the packs, but for the rollout without room."""


@dataclass(frozen=True)
class Outcome:
    """Of one scenario. ``count``: of all requests; ``step_seconds``: until what was asked for was
    done."""

    name: str
    count: Count
    step_seconds: float


async def measure(requests: int) -> list[Outcome]:
    """All scenarios, on one stack. Raises TimeoutError where a step does not end."""
    binaries = await asyncio.to_thread(find_or_build, print)
    settings = StackSettings(most_pods=MOST_PODS)
    outcomes: list[Outcome] = []
    async with Stack(binaries, settings) as stack, rig(stack, PACKS) as made:

        async def under_load(name: str, step: Callable[[], Awaitable[None]]) -> None:
            """Does ``step`` once a tenth of the requests was sent; ends when it is done and all
            were sent."""
            clients = Clients(made.front, SERVICE, CLIENTS)
            clock = asyncio.get_running_loop().time
            async with clients.running() as count:
                await clients.until_sent(requests // 10)
                began = clock()
                await step()
                seconds = clock() - began
                await clients.until_sent(requests)
            outcomes.append(Outcome(name, count, seconds))

        async def roll_out() -> None:
            await made.apply(**engine("--start-seconds=0.6"))
            await made.settled(PACKS)

        async def roll_out_in_place() -> None:
            await made.apply(**engine("--start-seconds=0.5"))
            await made.settled(MOST_PODS)

        async def scale_down() -> None:
            await made.scale(1)

        async def empty_the_second_node() -> None:
            await packs_are_on(made, NODE_NAME, SECOND_NODE)
            await drain(stack, made.api, SECOND_NODE, SERVICE, SELECTOR)
            await made.settled(MOST_PODS)
            await packs_are_on(made, NODE_NAME)

        await under_load("rollout", roll_out)
        await made.scale(MOST_PODS)
        await under_load("rollout_full", roll_out_in_place)
        await made.scale(PACKS)
        await under_load("scale_down", scale_down)
        async with stack.second_node():
            await made.scale(MOST_PODS)
            await under_load("drain", empty_the_second_node)
        await made.scale(PACKS)
        async with two_operators(stack) as leader:

            async def kill_the_leader() -> None:
                await made.apply(packs=PACKS - 1)
                await leader.kill()
                await made.settled(PACKS - 1)

            await under_load("takeover", kill_the_leader)
    return outcomes


@asynccontextmanager
async def two_operators(stack: Stack) -> AsyncIterator[Program]:
    """In the place of the stack's own, until the end; the first of them, which leads."""
    await stack.operator.stop()
    async with (
        aiohttp.ClientSession() as http,
        stack.another_operator("first", *ELECTION) as (first, first_url),
        stack.another_operator("second", *ELECTION) as (second, second_url),
    ):
        first.launch()
        await until("the first leads", lambda: stands(http, first_url, "leader"))
        second.launch()
        await until("the second stands by", lambda: stands(http, second_url, "standby"))
        yield first


async def packs_are_on(made: Rig, *nodes: str) -> None:
    """Raises RuntimeError where packs are on other nodes, or on fewer."""
    found = set(await packs_by_node(made.api, SELECTOR))
    if found != set(nodes):
        raise RuntimeError(f"packs are on {sorted(found)}, not on {sorted(nodes)}")


def engine(*args: str) -> dict[str, Any]:
    """A change of the template."""
    return {"engine": SPEC["engine"] | {"args": list(args)}}


def figures(outcomes: list[Outcome]) -> dict[str, report.Figure]:
    found: dict[str, report.Figure] = {"simulated": True, "clients": CLIENTS}
    for one in outcomes:
        count = one.count
        found |= {
            f"{one.name}_sent": count.sent,
            f"{one.name}_completed": count.completed,
            f"{one.name}_retried": count.retried,
            f"{one.name}_failed": count.failed,
            f"{one.name}_lost": count.lost,
            f"{one.name}_p99_seconds": count.p99_seconds(),
            f"{one.name}_step_seconds": one.step_seconds,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=REQUESTS)
    requests = parser.parse_args().requests
    outcomes = asyncio.run(measure(requests))
    report.write(
        NAME,
        figures(outcomes),
        f"python -m benchmarks.{NAME}"
        + (f" --requests {requests}" if requests != REQUESTS else ""),
        {"causes": {one.name: dict(one.count.causes) for one in outcomes}},
    )


if __name__ == "__main__":
    main()
