"""A change of the template under clients of the service in front, on the whole stack."""

from __future__ import annotations

import asyncio
import math
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import pytest

from model_folder import write_model
from operator_rig import NewService, Service, engine, fixed, until
from slm_dev.stack import Stack
from slm_operator.api.models import SLMService
from slm_operator.cluster.kube import Object
from slm_worker.wire import ROUTER_PORT

pytestmark = pytest.mark.asyncio(loop_scope="session")

LOOK_SECONDS = 0.5
"""How far behind the API server the balancer is at most; a pack that ends serves on for longer."""


@dataclass
class FrontClients:
    """Clients of a service's front: each request goes to one of the packs that the API server shows
    to be ready, as kube-proxy has it, over a connection of its own."""

    stack: Stack
    service: str
    count: int = 6
    completed: int = 0
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ready: list[str] = []
        self._looked_at_seconds = -math.inf
        self._leaving = asyncio.Event()
        self._random = random.Random(1)

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=120, sock_connect=10)
        connector = aiohttp.TCPConnector(force_close=True)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=connector)
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(self.count)]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leaving.set()
        try:
            await asyncio.gather(*self._tasks)
        finally:
            await self._session.close()

    async def served(self, more: int) -> None:
        enough = self.completed + more

        async def reached() -> bool:
            return self.completed >= enough

        await until(f"{more} more answers; failures: {self.failures[:3]}", reached)

    async def _look(self) -> None:
        asked_at_seconds = time.monotonic()
        labels = f"app.kubernetes.io/instance={self.service}"
        pods = await self.stack.kube.list("v1", "Pod", "default", labels=labels)
        self._ready = [pod["status"]["podIP"] for pod in pods if _answers(pod)]
        self._looked_at_seconds = asked_at_seconds

    async def _ask(self) -> None:
        while not self._leaving.is_set():
            # By whoever asks: a busy machine may hold up one task that looks for all of them.
            if time.monotonic() - self._looked_at_seconds > LOOK_SECONDS:
                await self._look()
            if not self._ready:
                self.failures.append("no pack is ready")
                await asyncio.sleep(LOOK_SECONDS)
                continue
            address = self._random.choice(self._ready)
            try:
                await self._complete(address)
            except (aiohttp.ClientError, TimeoutError, AssertionError) as error:
                self.failures.append(f"{address}: {error!r}")
                await asyncio.sleep(LOOK_SECONDS)
            else:
                self.completed += 1

    async def _complete(self, address: str) -> None:
        body = {"model": self.service, "prompt": "Name three things.", "max_tokens": 48}
        url = f"http://{address}:{ROUTER_PORT}/v1/completions"
        async with self._session.post(url, json=body) as answer:
            text = await answer.text()
            assert answer.status == 200, text
            choice = (await answer.json())["choices"][0]
            assert choice["finish_reason"] in ("stop", "length"), text


def _answers(pod: Any) -> bool:
    conditions = {c["type"]: c["status"] for c in pod.get("status", {}).get("conditions", ())}
    return "deletionTimestamp" not in pod["metadata"] and conditions.get("Ready") == "True"


async def hashes(service: Service) -> set[str]:
    """Templates of the packs that are there to stay."""
    return {template_hash(pod) for pod in await staying(service)}


async def one_other(service: Service, templates: set[str]) -> set[str]:
    """The template that all packs have, if it is one and none of these."""
    found = await hashes(service)
    return found if len(found) == 1 and found.isdisjoint(templates) else set()


async def one_has_started(service: Service, templates: set[str]) -> bool:
    """A pack of none of these templates, by its log, which tells before the API server does."""
    now = await service.now()
    return any(
        '"message": "ready after' in service.stack.pack_log(now, ordinal_of(pod))
        for pod in await staying(service)
        if template_hash(pod) not in templates
    )


def ordinal_of(pod: Object) -> int:
    return int(pod["metadata"]["name"].rpartition("-")[2])


async def staying(service: Service) -> list[Object]:
    labels = f"app.kubernetes.io/instance={service.name}"
    pods = await service.stack.kube.list("v1", "Pod", "default", labels=labels)
    return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def template_hash(pod: Object) -> str:
    found: str = pod["metadata"]["annotations"]["serving.slm.dev/template-hash"]
    return found


def rolled_out(found: SLMService) -> bool:
    said = found.status.condition("Progressing")
    return (
        said is not None
        and said.reason == "RolloutComplete"
        and said.observed_generation == found.generation
        and found.status.packs == found.status.ready_packs == 2
    )


async def test_a_rollout_loses_no_request_and_a_broken_one_rolls_back(
    new_service: NewService, operator_stack: Stack
) -> None:
    service = await new_service(fixed(packs=2))
    await service.until("two packs serve", rolled_out)
    before = await hashes(service)
    async with FrontClients(operator_stack, service.name) as clients:
        await clients.served(20)
        await service.apply(**engine(args=["--start-seconds=0.3"]))
        await service.until("the change is everywhere", rolled_out)
        after = await until("no pack is as before", lambda: one_other(service, before))
        await clients.served(20)

        await service.apply(**engine(args=["--no-such-argument"]))
        said = await service.condition("Progressing", "False", "RolledBack")
        assert "--no-such-argument" in said.message
        await until("the failed pack is gone", lambda: only(service, after))
        await service.condition("Ready", "True", "Serving", "2 of 2 packs")
        await clients.served(20)
    assert clients.failures == []
    await service.told("RolledBack")


async def test_a_pack_that_fails_after_the_first_one_passed_takes_all_of_them_back(
    new_service: NewService, operator_stack: Stack, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    spec = fixed(packs=2, model={"uri": write_model(folder)}, rollout={"progressDeadline": "30s"})
    service = await new_service(spec)
    await service.until("two packs serve", rolled_out)
    before = await hashes(service)
    async with FrontClients(operator_stack, service.name) as clients:
        await service.apply(**engine(args=["--start-seconds=0.3"]))
        # It has read the model, and those that follow it come once it is ready.
        await until("one pack of the change starts", lambda: one_has_started(service, before))
        write_model(folder, "{")
        said = await service.condition("Progressing", "False", "RolledBack")
        assert "a pack that followed the first one did not serve within 30s" in said.message
        assert str(folder) in said.message
        write_model(folder)
        await until("the former packs alone are there", lambda: only(service, before))
        await service.condition("Ready", "True", "Serving", "2 of 2 packs")
        await clients.served(20)
    assert clients.failures == []


async def only(service: Service, templates: set[str]) -> bool:
    return await hashes(service) == templates
