"""An API server that is away, hangs, refuses, is slow or was restored: serving goes on, and what
was asked for meanwhile is done within 30 s after, once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from api_proxy import ApiProxy, Fault, api_proxy, forgets, hangs_up, nothing, refuses, slow
from operator_rig import NewService, Service, fixed, until
from slm_dev.stack import Stack
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Kube

pytestmark = pytest.mark.asyncio(loop_scope="session")

CONVERGED_SECONDS = 30.0
HANGS: Fault = nothing
"""Nothing goes through: the proxy itself is cut."""
FAULTS: dict[str, tuple[Fault, int]] = {
    # What is wrong, and how many packs are asked for meanwhile.
    "connections closed": (hangs_up, 2),
    "hanging": (HANGS, 3),
    "500": (refuses(500, "InternalError"), 1),
    "429 with Retry-After": (refuses(429, "TooManyRequests", Retry_After="1"), 2),
    "410 on every watch": (forgets, 3),
    "slow": (slow(1.5), 1),
}


@dataclass
class Rig:
    stack: Stack
    proxy: ApiProxy


@pytest_asyncio.fixture(loop_scope="session")
async def rig(operator_stack: Stack, tmp_path: Path) -> AsyncIterator[Rig]:
    """The operator speaks to the API server through a proxy; everybody else does not."""
    await operator_stack.operator.stop()
    try:
        async with (
            api_proxy(operator_stack.operator_kubeconfig, tmp_path) as proxy,
            operator_stack.another_operator(
                "operator-behind-proxy", kubeconfig=proxy.kubeconfig
            ) as (operator, _),
        ):
            operator.launch()
            yield Rig(operator_stack, proxy)
    finally:
        await operator_stack.start_operator()


@dataclass
class Created:
    """The Pods of a service that were ever there."""

    kube: Kube
    service: str
    names: dict[str, str] = field(default_factory=dict)
    """By UID."""

    async def follow(self) -> None:
        while True:
            with contextlib.suppress(KubeError):
                labels = f"app.kubernetes.io/instance={self.service}"
                for pod in await self.kube.list("v1", "Pod", "default", labels=labels):
                    self.names[pod["metadata"]["uid"]] = pod["metadata"]["name"]
            await asyncio.sleep(0.2)

    @property
    def by_ordinal(self) -> dict[int, int]:
        return {int(n.rsplit("-", 1)[1]): c for n, c in Counter(self.names.values()).items()}


@contextlib.asynccontextmanager
async def counting(kube: Kube, service: str) -> AsyncIterator[Created]:
    created = Created(kube, service)
    task = asyncio.create_task(created.follow())
    try:
        yield created
    finally:
        task.cancel()


@contextlib.contextmanager
def broken(proxy: ApiProxy, fault: Fault) -> Iterator[None]:
    """What was under way ends, and what begins meets the fault."""
    proxy.fault = fault
    if fault is HANGS:
        proxy.cut()
    proxy.drop()
    try:
        yield
    finally:
        proxy.fault = nothing
        proxy.mend()


async def converges(service: Service, packs: int) -> float:
    """Seconds until the spec is followed: there are so many packs, and no other that is not going.
    How long a pack takes to start and to go is not counted, but waited for."""
    began = time.monotonic()
    labels = f"app.kubernetes.io/instance={service.name}"

    async def followed() -> bool:
        now = await service.now()
        pods = await service.stack.kube.list("v1", "Pod", "default", labels=labels)
        staying = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        return now.status.observed_generation == now.generation and len(staying) == packs

    await until(f"the operator follows: {packs} packs", followed)
    seconds = round(time.monotonic() - began, 1)
    await service.serves(packs)

    async def no_other() -> bool:
        return len(await service.pods()) == packs

    await until("surplus packs are gone", no_other)
    return seconds


async def write_much(kube: Kube) -> None:
    """So that what is written after the copy is restored does not soon get as far again."""
    for number in range(300):
        metadata = {"name": f"restored-{number}", "namespace": "default"}
        await kube.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})


async def test_serving_goes_on_whatever_the_api_server_does_and_the_spec_is_followed_after(
    rig: Rig, new_service: NewService, tmp_path: Path
) -> None:
    service, proxy = await new_service(fixed(1)), rig.proxy
    await service.serves(1)
    took: dict[str, float] = {}
    async with service.users() as users, counting(rig.stack.kube, service.name) as created:
        for name, (fault, packs) in FAULTS.items():
            with broken(proxy, fault):
                met = proxy.disturbed
                await service.apply(packs=packs)

                async def met_again(met: int = met) -> bool:
                    return proxy.disturbed >= met + 3

                await until(f"the operator meets the fault: {name}", met_again)
                await users.served(1)
            took[name] = await converges(service, packs)
        assert created.by_ordinal == {0: 1, 1: 2, 2: 2}

        # Restarted, and later restored to what there was before another pack was asked for.
        await rig.stack.snapshot(tmp_path / "etcd")
        await service.apply(packs=2)
        took["restarted"] = await converges(service, 2)
        forgotten = (await service.pod(1))["metadata"]["uid"]
        await write_much(rig.stack.kube)
        await rig.stack.restore(tmp_path / "etcd")
        assert (await service.now()).spec.packs == 1
        assert forgotten not in await rig.stack.kube.versions("v1", "Pod", "default")
        await service.apply(packs=2)
        took["restored"] = await converges(service, 2)
        await users.served(2)
    print(f"seconds until the spec was followed after: {took}; requests: {users.completed}")
    assert max(took.values()) <= CONVERGED_SECONDS, took
    assert created.by_ordinal == {0: 1, 1: 4, 2: 2}
    assert users.failed == 0, users.failures
