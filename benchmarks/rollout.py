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
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import yaml

from benchmarks import report
from benchmarks.rollout_rig.clients import Clients, Count
from benchmarks.rollout_rig.drain import drain, packs_by_node
from benchmarks.rollout_rig.front import Front
from slm_dev.controlplane import find_or_build
from slm_dev.local_node.api import ApiServer
from slm_dev.local_node.node import NODE_NAME
from slm_dev.program import Program
from slm_dev.stack import SECOND_NODE, Stack, StackSettings
from slm_operator.api.models import GROUP, KIND, VERSION, SLMService
from slm_operator.render.children import INSTANCE_LABEL

NAME = "rollout"
SERVICE = "chat"
SELECTOR = f"{INSTANCE_LABEL}={SERVICE}"
REQUESTS = 100_000
CLIENTS = 48
PACKS = 3
MOST_PODS = PACKS + 1
"""That a node runs: one more than the packs, but for the rollout without room."""
POLL_SECONDS = 0.5
TIMEOUT_SECONDS = 600.0
ELECTION = ("--leader-election", "--lease-namespace=default")
SPEC: dict[str, Any] = {
    "model": {"uri": "hf://facebook/opt-1.3b"},
    "engine": {"kind": "Simulated", "maxNumSeqs": 256, "args": ["--start-seconds=0.5"]},
    "gpu": {"kind": "Simulated"},
    "replicasPerPack": 1,
    "packs": PACKS,
}


@dataclass(frozen=True)
class Outcome:
    """Of one scenario. ``count``: of all requests; ``step_seconds``: until what was asked for was
    done."""

    name: str
    count: Count
    step_seconds: float


class Rig:
    """A service with its clients on a running stack."""

    def __init__(self, stack: Stack, api: ApiServer, front: Front, requests: int) -> None:
        self.api = api
        self._stack = stack
        self._front = front
        self._requests = requests
        self._spec = SPEC

    async def apply(self, **changes: Any) -> None:
        self._spec = self._spec | changes
        manifest = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": KIND,
            "metadata": {"name": SERVICE},
            "spec": self._spec,
        }
        await self._stack.apply(yaml.safe_dump(manifest))

    async def scale(self, packs: int) -> None:
        """Until so many packs serve."""
        await self.apply(packs=packs)
        await self.settled(packs)

    async def settled(self, packs: int) -> None:
        """Until the service is what its spec asks for, with so many packs, and no Pod ends."""

        async def done() -> bool:
            service = await self._stack.service(SERVICE)
            pods = await self._stack.kube.list("v1", "Pod", "default", labels=SELECTOR)
            return serves(service, packs) and len(pods) == len(self._front.ready) == packs

        await until(f"{packs} packs serve", done)

    async def packs_are_on(self, *nodes: str) -> None:
        """Raises RuntimeError where packs are on other nodes, or on fewer."""
        found = set(await packs_by_node(self.api, SELECTOR))
        if found != set(nodes):
            raise RuntimeError(f"packs are on {sorted(found)}, not on {sorted(nodes)}")

    async def under_load(self, name: str, step: Callable[[], Awaitable[None]]) -> Outcome:
        """Does ``step`` once a tenth of the requests was sent; ends when it is done and all were
        sent."""
        clients = Clients(self._front, SERVICE, CLIENTS)
        clock = asyncio.get_running_loop().time
        async with clients.running() as count:
            await clients.until_sent(self._requests // 10)
            began = clock()
            await step()
            seconds = clock() - began
            await clients.until_sent(self._requests)
        return Outcome(name, count, seconds)


def engine(*args: str) -> dict[str, Any]:
    """A change of the template."""
    return {"engine": SPEC["engine"] | {"args": list(args)}}


def serves(service: SLMService, packs: int) -> bool:
    said = service.status.condition("Progressing")
    return (
        said is not None
        and said.reason == "RolloutComplete"
        and service.status.observed_generation == service.generation
        and service.status.packs == service.status.ready_packs == packs
    )


async def until(what: str, done: Callable[[], Awaitable[bool]]) -> None:
    """Raises TimeoutError, which names ``what``."""
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not await done():  # noqa: ASYNC110 - it asks other processes
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise TimeoutError(f"not within {TIMEOUT_SECONDS:g} s: {what}") from None


@asynccontextmanager
async def rig(stack: Stack, requests: int) -> AsyncIterator[Rig]:
    async with ApiServer(stack.kubeconfig) as api:
        front = Front(api, SELECTOR, random.Random(1))
        following = asyncio.create_task(front.follow())
        try:
            made = Rig(stack, api, front, requests)
            await made.apply()
            await made.settled(PACKS)
            yield made
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def measure(requests: int) -> list[Outcome]:
    """All scenarios, on one stack. Raises TimeoutError where a step does not end."""
    binaries = await asyncio.to_thread(find_or_build, print)
    settings = StackSettings(most_pods=MOST_PODS)
    async with Stack(binaries, settings) as stack, rig(stack, requests) as made:

        async def roll_out() -> None:
            await made.apply(**engine("--start-seconds=0.6"))
            await made.settled(PACKS)

        async def roll_out_in_place() -> None:
            await made.apply(**engine("--start-seconds=0.5"))
            await made.settled(MOST_PODS)

        async def scale_down() -> None:
            await made.scale(1)

        async def empty_the_second_node() -> None:
            await made.packs_are_on(NODE_NAME, SECOND_NODE)
            await drain(stack, made.api, SECOND_NODE, SERVICE, SELECTOR)
            await made.settled(MOST_PODS)
            await made.packs_are_on(NODE_NAME)

        outcomes = [await made.under_load("rollout", roll_out)]
        await made.scale(MOST_PODS)
        outcomes.append(await made.under_load("rollout_full", roll_out_in_place))
        await made.scale(PACKS)
        outcomes.append(await made.under_load("scale_down", scale_down))
        async with stack.second_node():
            await made.scale(MOST_PODS)
            outcomes.append(await made.under_load("drain", empty_the_second_node))
        await made.scale(PACKS)
        async with two_operators(stack) as leader:

            async def kill_the_leader() -> None:
                await made.apply(packs=PACKS - 1)
                await leader.kill()
                await made.settled(PACKS - 1)

            outcomes.append(await made.under_load("takeover", kill_the_leader))
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


async def stands(http: aiohttp.ClientSession, url: str, standing: str) -> bool:
    try:
        async with http.get(f"{url}/healthz", timeout=aiohttp.ClientTimeout(total=2)) as answer:
            return (await answer.text()).strip() == standing
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False


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
