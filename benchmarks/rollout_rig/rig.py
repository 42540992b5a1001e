"""One service of several packs on the whole stack, and what its benchmarks wait for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import yaml

from benchmarks.rollout_rig.front import Front
from slm_dev.local_node.api import ApiServer
from slm_dev.stack import Stack
from slm_operator.api.models import API_VERSION, KIND, SLMService
from slm_operator.render.children import INSTANCE_LABEL

SERVICE = "chat"
SELECTOR = f"{INSTANCE_LABEL}={SERVICE}"
POLL_SECONDS = 0.5
TIMEOUT_SECONDS = 600.0
ELECTION = ("--leader-election", "--lease-namespace=default")
"""Arguments of each of several operators."""
SPEC: dict[str, Any] = {
    "model": {"uri": "hf://facebook/opt-1.3b"},
    "engine": {"kind": "Simulated", "maxNumSeqs": 256, "args": ["--start-seconds=0.5"]},
    "gpu": {"kind": "Simulated"},
    "replicasPerPack": 1,
}


class Rig:
    """The service and what plays the Service in front of it, on a running stack."""

    def __init__(self, stack: Stack, api: ApiServer, front: Front) -> None:
        self.stack = stack
        self.api = api
        self.front = front
        self._spec = SPEC

    async def apply(self, **changes: Any) -> None:
        self._spec = self._spec | changes
        manifest = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": SERVICE},
            "spec": self._spec,
        }
        await self.stack.apply(yaml.safe_dump(manifest))

    async def scale(self, packs: int) -> None:
        """Until so many packs serve."""
        await self.apply(packs=packs)
        await self.settled(packs)

    async def settled(self, packs: int) -> None:
        """Until the service is what its spec asks for, with so many packs, and no Pod ends."""

        async def done() -> bool:
            service = await self.stack.service(SERVICE)
            pods = await self.stack.kube.list("v1", "Pod", "default", labels=SELECTOR)
            return serves(service, packs) and len(pods) == len(self.front.ready) == packs

        await until(f"{packs} packs serve", done)


def serves(service: SLMService, packs: int) -> bool:
    said = service.status.condition("Progressing")
    return (
        said is not None
        and said.reason == "RolloutComplete"
        and service.status.observed_generation == service.generation
        and service.status.packs == service.status.ready_packs == packs
    )


@asynccontextmanager
async def rig(stack: Stack, packs: int) -> AsyncIterator[Rig]:
    """From when so many packs serve."""
    async with ApiServer(stack.kubeconfig) as api:
        front = Front(api, SELECTOR, random.Random(1))
        following = asyncio.create_task(front.follow())
        try:
            made = Rig(stack, api, front)
            await made.scale(packs)
            yield made
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def stands(http: aiohttp.ClientSession, url: str, standing: str) -> bool:
    """Whether an operator says that it is leader, or standby."""
    try:
        async with http.get(f"{url}/healthz", timeout=aiohttp.ClientTimeout(total=2)) as answer:
            return (await answer.text()).strip() == standing
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False


async def until(what: str, done: Callable[[], Awaitable[bool]]) -> None:
    """Raises TimeoutError, which names ``what``."""
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not await done():  # noqa: ASYNC110 - it asks other processes
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise TimeoutError(f"not within {TIMEOUT_SECONDS:g} s: {what}") from None
