"""Two operators and one Lease: another leads within 15 s, and never two at a time."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import pytest_asyncio

from api_proxy import ApiProxy, api_proxy
from operator_rig import Service, fixed, until
from slm_dev.program import Program
from slm_dev.stack import Stack
from slm_operator.api.models import SLMService
from slm_operator.cluster import lease
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Kube
from slm_operator.main import LEASE_NAME

pytestmark = pytest.mark.asyncio(loop_scope="session")

ELECTION = ("--leader-election", "--lease-namespace=default")
TAKEOVER_SECONDS = 15.0
SAMPLE_SECONDS = 0.1


@dataclass
class Operator:
    program: Program
    url: str
    http: aiohttp.ClientSession

    async def standing(self) -> str:
        """leader, standby, or nothing when it does not answer."""
        try:
            patience = aiohttp.ClientTimeout(total=1)
            async with self.http.get(f"{self.url}/healthz", timeout=patience) as answer:
                return (await answer.text()).strip()
        except (aiohttp.ClientError, OSError, TimeoutError):
            return ""

    async def leads(self) -> bool:
        return await self.standing() == "leader"

    async def stands_by(self) -> bool:
        return await self.standing() == "standby"

    async def ended(self) -> bool:
        return self.process is None

    @property
    def process(self) -> psutil.Process | None:
        address = self.url.split("/")[2].split(":")[0]
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                command = process.cmdline()
                if command[1:3] == ["-m", "slm_operator"] and (
                    f"--health-address={address}" in command
                ):
                    return process
        return None

    def send(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)


@dataclass
class Leases:
    """Each state of the Lease from ``since`` on, however soon the next one followed."""

    kube: Kube
    since: str
    states: list[dict[str, Any]] = field(default_factory=list)

    async def follow(self) -> None:
        while True:
            # A watch that ended goes on where it was.
            with contextlib.suppress(KubeError):
                async for event, obj in self.kube.watch(
                    lease.API_VERSION, lease.KIND, "default", since=self.since
                ):
                    self.since = obj["metadata"]["resourceVersion"]
                    if event != "BOOKMARK" and obj["metadata"]["name"] == LEASE_NAME:
                        self.states.append(obj["spec"])
            await asyncio.sleep(SAMPLE_SECONDS)

    async def transitions(self) -> int:
        """As it is now."""
        obj = await self.kube.get(lease.API_VERSION, lease.KIND, LEASE_NAME, "default")
        return int(obj["spec"]["leaseTransitions"])

    async def taken(self, after: str, transitions: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """The first state after so many transitions, and the last one before."""

        async def found() -> tuple[dict[str, Any], dict[str, Any]] | None:
            for before, now in pairwise(self.states):
                if now["leaseTransitions"] > transitions:
                    return now, before
            return None

        states: tuple[dict[str, Any], dict[str, Any]] = await until(
            f"another takes the lease after: {after}", found
        )
        return states

    @property
    def taken_too_soon(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Where it was neither given up nor had run out."""
        return [
            (before, now)
            for before, now in pairwise(self.states)
            if now["holderIdentity"] not in ("", before["holderIdentity"])
            and before["holderIdentity"]
            and waited_seconds(before, now) < before["leaseDurationSeconds"]
        ]


def waited_seconds(before: dict[str, Any], now: dict[str, Any]) -> float:
    """From the last renewal of one leader until another held the Lease."""
    acquired, renewed = (
        datetime.fromisoformat(time) for time in (now["acquireTime"], before["renewTime"])
    )
    return (acquired - renewed).total_seconds()


@dataclass
class Pair:
    """Two operators; ``b`` speaks to the API server through a proxy."""

    a: Operator
    b: Operator
    proxy: ApiProxy
    leases: Leases
    both_led: int = 0
    takeovers: dict[str, float] = field(default_factory=dict)

    async def watch(self) -> None:
        while True:
            # Who led before and after the other was asked, led then.
            if await self.a.leads() and await self.b.leads():
                self.both_led += await self.a.leads()
            await asyncio.sleep(SAMPLE_SECONDS)

    async def takes_over(self, successor: Operator, after: str, act: Callable[[], None]) -> None:
        transitions = await self.leases.transitions()
        act()
        taken, former = await self.leases.taken(after, transitions)
        self.takeovers[after] = round(waited_seconds(former, taken), 1)
        assert self.takeovers[after] <= TAKEOVER_SECONDS, self.takeovers
        await until("and leads", successor.leads)


@pytest_asyncio.fixture(loop_scope="session")
async def pair(operator_stack: Stack, tmp_path: Path) -> AsyncIterator[Pair]:
    """In the place of the stack's own operator."""
    await operator_stack.operator.stop()
    try:
        async with (
            aiohttp.ClientSession() as http,
            api_proxy(operator_stack.operator_kubeconfig, tmp_path) as proxy,
            operator_stack.another_operator("operator-a", *ELECTION) as a,
            operator_stack.another_operator(
                "operator-b", *ELECTION, kubeconfig=proxy.kubeconfig
            ) as b,
        ):
            kube = operator_stack.kube
            since = await kube.version(lease.API_VERSION, lease.KIND, "default")
            pair = Pair(Operator(*a, http), Operator(*b, http), proxy, Leases(kube, str(since)))
            watching = [asyncio.create_task(one) for one in (pair.watch(), pair.leases.follow())]
            try:
                yield pair
                assert not any(one.done() for one in watching), watching
            finally:
                for one in watching:
                    one.cancel()
                with contextlib.suppress(psutil.Error, AssertionError):
                    pair.b.send(signal.SIGCONT)
    finally:
        await operator_stack.start_operator()


def plans_of(stack: Stack, service: SLMService) -> int:
    """How many plans the pack has accepted."""
    return stack.pack_log(service).count('"message": "plan ')


async def acts(service: Service, **changes: object) -> None:
    """Whoever leads sees a change of the spec."""
    await service.apply(**changes)
    generation = (await service.now()).generation
    await service.until("acts", lambda s: s.status.observed_generation == generation)


async def test_another_operator_leads_after_a_cut_a_kill_and_a_pause(
    operator_stack: Stack, pair: Pair
) -> None:
    a, b, proxy = pair.a, pair.b, pair.proxy
    b.program.launch()
    await until("the first leads", b.leads)
    a.program.launch()
    await until("the second stands by", a.stands_by)
    service = Service(operator_stack, "shared", fixed(1))
    await service.apply()
    await service.serves(1)
    async with service.users() as users:
        # Cut off from the API server.
        await pair.takes_over(a, "cut off", proxy.cut)
        await until("it ended by itself", b.ended)
        await acts(service, replicasPerPack=2)

        proxy.mend()
        await b.program.stop()
        b.program.launch()
        await until("it stands by", b.stands_by)
        await pair.takes_over(b, "killed", lambda: a.send(signal.SIGKILL))
        await acts(service, replicasPerPack=1)
        await service.serves(1)

        # Paused. What it finds when it wakes up it would act on, did it still lead.
        await a.program.stop()
        a.program.launch()
        await until("it stands by", a.stands_by)
        await pair.takes_over(a, "paused", lambda: b.send(signal.SIGSTOP))
        sent, plans = len(proxy.writes), plans_of(operator_stack, await service.now())
        await service.apply(replicasPerPack=2)
        await service.serves(2)
        b.send(signal.SIGCONT)
        await until("the former leader ended", b.ended)
        assert proxy.writes[sent:] == []
        assert plans_of(operator_stack, await service.now()) == plans + 1

        # Asked to end, it does not let the other wait.
        await b.program.stop()
        b.program.launch()
        await until("it stands by", b.stands_by)
        await pair.takes_over(b, "ended", lambda: a.send(signal.SIGTERM))
        await acts(service, replicasPerPack=1)
        await service.serves(1)

        # The API server is away from all of them. Nobody leads, nobody acts, the pack serves on.
        plans = plans_of(operator_stack, await service.now())
        proxy.cut()
        await until("nobody leads", b.ended)
        await service.apply(replicasPerPack=2)
        await users.served(1)
        assert plans_of(operator_stack, await service.now()) == plans
        proxy.mend()
        await b.program.stop()
        b.program.launch()
        await until("it leads again", b.leads)
        await service.serves(2)
    assert pair.both_led == 0
    assert pair.leases.taken_too_soon == []
    assert users.failed == 0, users.failures
    assert pair.takeovers["ended"] < min(
        seconds for after, seconds in pair.takeovers.items() if after != "ended"
    ), pair.takeovers
    print(f"seconds until another led: {pair.takeovers}")
    await service.delete()
    await service.gone()
