"""One service on the whole stack, and the words in which tests ask about it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import psutil
import yaml

from slm_dev.clients import Clients
from slm_dev.stack import Stack
from slm_operator.api.models import API_VERSION, KIND, SLMService
from slm_operator.api.status import Condition
from slm_operator.cluster.agents import AgentError
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Object
from slm_worker.wire import ROUTER_PORT, PackState

SAMPLE_SECONDS = 3.0
"""Between two samples of the demand."""
OPERATOR_ARGUMENTS = (
    "--min-window-seconds=4",
    "--warmup-seconds=1",
    "--max-window-seconds=8",
    f"--demand-sample-seconds={SAMPLE_SECONDS:g}",
)
BARE_IMAGE = "slm-worker-bare"
"""A worker image whose only folder of programs is the fixture ``bare_programs``."""
PASSES = "slm_operator_reconcile_seconds_count"
UNREACHABLE = 'slm_operator_reconcile_failures_total{reason="Unreachable"}'
WAIT_SECONDS = 150.0
DECISION_SECONDS = 2 * WAIT_SECONDS
"""Until a search is over. A test that waits for one has longer than others, lest it be ended before
the wait says what it saw."""
POLL_SECONDS = 0.25
SIMULATED: dict[str, Any] = {
    "model": {"uri": "hf://facebook/opt-1.3b"},
    "engine": {"kind": "Simulated", "maxNumSeqs": 256, "args": ["--start-seconds=0.2"]},
    "gpu": {"kind": "Simulated"},
}


def searching(most_replicas: int, **autoscaling: Any) -> dict[str, Any]:
    """A spec whose replica count is to be found."""
    load = {"promptTokens": 111, "outputTokens": 292}
    found = {"maxReplicasPerPack": most_replicas, "calibration": load, **autoscaling}
    return SIMULATED | {"autoscaling": found}


def fixed(replicas: int = 1, **changes: Any) -> dict[str, Any]:
    """A spec that measures nothing and serves at once."""
    return SIMULATED | {"replicasPerPack": replicas} | changes


def engine(**changes: Any) -> dict[str, Any]:
    return {"engine": SIMULATED["engine"] | changes}


async def until(what: str, ask: Callable[[], Awaitable[Any]], seconds: float = WAIT_SECONDS) -> Any:
    """The first true answer."""
    deadline = time.monotonic() + seconds
    while not (answer := await ask()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(POLL_SECONDS)
    return answer


class Service:
    """One SLMService in the namespace ``default``."""

    def __init__(self, stack: Stack, name: str, spec: dict[str, Any]) -> None:
        self.stack = stack
        self.name = name
        self.spec = spec

    async def apply(self, **changes: Any) -> None:
        """Applies the spec with these blocks of it replaced; None removes one."""
        spec = {k: v for k, v in (self.spec | changes).items() if v is not None}
        self.spec = spec
        await self.stack.apply(
            yaml.safe_dump(
                {
                    "apiVersion": API_VERSION,
                    "kind": KIND,
                    "metadata": {"name": self.name},
                    "spec": spec,
                }
            )
        )

    async def now(self) -> SLMService:
        return await self.stack.service(self.name)

    async def until(
        self,
        what: str,
        condition: Callable[[SLMService], object],
        seconds: float = WAIT_SECONDS,
    ) -> SLMService:
        """The first state that meets ``condition``, however soon the next one follows."""
        deadline = time.monotonic() + seconds
        async with contextlib.aclosing(self._states()) as states:
            async for service in states:
                if condition(service):
                    return service
                assert time.monotonic() < deadline, (
                    f"not within {seconds:g} s: {what}; {self._shown(service)}"
                )
        raise AssertionError(f"{self.name} shows no more states")

    async def _states(self) -> AsyncGenerator[SLMService]:
        """Each state from now on; the last one again where POLL_SECONDS bring no other."""
        seen: asyncio.Queue[Object] = asyncio.Queue()
        following = asyncio.create_task(self._follow(seen))
        try:
            state = None
            while True:
                with contextlib.suppress(TimeoutError):
                    state = SLMService.from_object(
                        await asyncio.wait_for(seen.get(), timeout=POLL_SECONDS)
                    )
                if following.done():
                    following.result()
                if state is not None:
                    yield state
        finally:
            following.cancel()

    async def _follow(self, seen: asyncio.Queue[Object]) -> None:
        kind = API_VERSION, KIND
        while True:
            obj = await self.stack.kube.get(*kind, self.name, "default")
            seen.put_nowait(obj)
            since = obj["metadata"]["resourceVersion"]
            with contextlib.suppress(KubeError):
                async for event, obj in self.stack.kube.watch(*kind, "default", since=since):
                    if event == "MODIFIED" and obj["metadata"]["name"] == self.name:
                        seen.put_nowait(obj)
            await asyncio.sleep(POLL_SECONDS)

    async def condition(self, kind: str, status: str, reason: str, *phrases: str) -> Condition:
        """Waits for a condition whose message has every phrase: a reason's first message is not
        always its last."""

        def said(service: SLMService) -> bool:
            found = service.status.condition(kind)
            return (
                found is not None
                and (found.status, found.reason) == (status, reason)
                and all(phrase in found.message for phrase in phrases)
            )

        what = " ".join((f"{kind}={status} {reason}", *phrases))
        service = await self.until(what, said)
        found = service.status.condition(kind)
        assert found is not None
        return found

    async def serves(self, replicas: int = 1) -> SLMService:
        """Waits until so many replicas of all packs serve and nothing is amiss."""

        def served(service: SLMService) -> bool:
            ready = service.status.condition("Ready")
            return (
                ready is not None
                and (ready.status, ready.reason) == ("True", "Serving")
                and ready.observed_generation == service.generation
                and service.status.ready_packs == service.spec.packs
                and service.status.ready_replicas == service.status.replicas == replicas
            )

        return await self.until(f"{replicas} replicas serve", served)

    async def decided(self) -> SLMService:
        """Waits until the search is over and its result runs."""

        def over(service: SLMService) -> bool:
            calibrated, ready, progressing = (
                service.status.condition(kind) for kind in ("Calibrated", "Ready", "Progressing")
            )
            return (
                progressing is not None
                and progressing.reason == "RolloutComplete"
                and calibrated is not None
                and calibrated.reason == "KneeFound"
                and calibrated.observed_generation == service.generation
                and ready is not None
                and ready.reason == "Serving"
            )

        return await self.until("the knee is found", over, DECISION_SECONDS)

    async def pod(self, ordinal: int = 0) -> dict[str, Any]:
        found = await self.stack.kube.get(
            "v1", "Pod", f"{self.name}-pack-{ordinal}", namespace="default"
        )
        return dict(found)

    async def pods(self) -> list[str]:
        found = await self.stack.kube.list(
            "v1", "Pod", "default", labels=f"app.kubernetes.io/instance={self.name}"
        )
        return [pod["metadata"]["name"] for pod in found]

    async def events(self) -> dict[str, str]:
        """The messages of this service's events, the last of each reason."""
        found = await self.stack.kube.list("v1", "Event", "default")
        return {
            event["reason"]: event["message"]
            for event in found
            if (event["involvedObject"]["kind"], event["involvedObject"]["name"])
            == (KIND, self.name)
        }

    async def told(self, *reasons: str) -> dict[str, str]:
        """Its events, once there is one of each of these reasons: the status comes before them."""

        async def there() -> dict[str, str] | None:
            events = await self.events()
            return events if events.keys() >= set(reasons) else None

        found: dict[str, str] = await until(f"events {', '.join(reasons)}", there)
        return found

    async def agent(self, ordinal: int = 0) -> PackState:
        """Waits for an answer of a pack's agent."""

        async def answer() -> PackState | None:
            with contextlib.suppress(AgentError):
                return await self.stack.agent_state(await self.now(), ordinal)
            return None

        found: PackState = await until("the agent answers", answer)
        return found

    async def agent_until(
        self, what: str, condition: Callable[[PackState], object], seconds: float = WAIT_SECONDS
    ) -> PackState:
        async def meets() -> PackState | None:
            state = await self.agent()
            return state if condition(state) else None

        found: PackState = await until(what, meets, seconds)
        return found

    async def router_url(self) -> str:
        async def address() -> str:
            return await self.stack.pack_address(await self.now())

        return f"http://{await until('an address', address)}:{ROUTER_PORT}"

    async def agent_process(self, ordinal: int = 0) -> psutil.Process:
        """The agent of a running pack."""
        uid = (await self.pod(ordinal))["metadata"]["uid"]
        marker = f"{uid}/pack/"
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if "slm_worker" in process.cmdline() and process.environ().get(
                    "SLM_LOCAL_CONTAINER", ""
                ).startswith(marker):
                    return process
        raise AssertionError(f"no agent process of {self.name}")

    async def pack_processes(self) -> list[psutil.Process]:
        """The agent with all that it started."""
        agent = await self.agent_process()
        return [agent, *agent.children(recursive=True)]

    @contextlib.asynccontextmanager
    async def users(self, each: int = 2, **settings: Any) -> AsyncIterator[Users]:
        """Clients of pack 0's router: ``each`` that stream, and as many that do not."""
        url = await self.router_url()
        streaming = Clients(url, self.name, each, **settings)
        waiting = Clients(url, self.name, each, stream=False, **settings)
        async with streaming, waiting:
            yield Users(streaming, waiting)

    async def delete(self) -> None:
        """Asks for the service's end, and does not wait for it."""
        await self.stack.kube.delete(API_VERSION, KIND, self.name, "default")

    async def collect_garbage(self) -> None:
        """Asks for the end of a deleted service's packs, as Kubernetes does of which nothing runs
        here: an operator that is stopped or started in this moment never hears of them."""
        for pod in await self.pods():
            await self.stack.kube.delete("v1", "Pod", pod, "default")

    @contextlib.asynccontextmanager
    async def serving(self, replicas: int) -> AsyncIterator[Service]:
        """Applied, from when so many replicas serve; its end is asked for afterwards."""
        await self.apply()
        try:
            await self.serves(replicas)
            yield self
        finally:
            await self.delete()

    async def gone(self) -> None:
        """Waits until the service and its packs are gone."""

        async def gone() -> bool:
            return not await self.exists() and not await self.pods()

        await until(f"{self.name} is gone", gone)

    async def exists(self) -> bool:
        try:
            await self.now()
        except KubeError as error:
            if error.status == 404:
                return False
            raise
        return True

    def _shown(self, service: SLMService) -> str:
        said = "\n".join(
            f"{c.type}={c.status} {c.reason}: {c.message}" for c in service.status.conditions
        )
        return (
            f"{service.status.calibration}\n{said}\n{self.stack.pack_log(service)[-3000:]}\n"
            f"{operator_stands(self.stack)}\n{self.stack.operator.log_tail()[-4000:]}\n"
            f"{self.stack.node.log_tail()[-1000:]}"
        )


def operator_stands(stack: Stack) -> str:
    """How the operator's process is; where it stands goes to the end of its log."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[1:] == stack.operator.command[1:]:
                process.send_signal(signal.SIGUSR1)
                time.sleep(1)
                return f"operator: {process.status()}, {process.cpu_times()}"
    return "operator: no process"


class Users:
    """What streaming clients and those that do not stream have counted together."""

    def __init__(self, *groups: Clients) -> None:
        self._groups = groups

    @property
    def completed(self) -> int:
        return sum(one.counts.completed for one in self._groups)

    @property
    def failed(self) -> int:
        return sum(one.counts.failed for one in self._groups)

    @property
    def failures(self) -> list[str]:
        return [one.counts.last_failure for one in self._groups if one.counts.failed]

    async def served(self, more: int) -> None:
        """Until each group has so many more requests completed."""
        enough = [one.counts.completed + more for one in self._groups]

        async def reached() -> bool:
            return all(
                one.counts.completed >= count
                for one, count in zip(self._groups, enough, strict=True)
            )

        await until(f"{more} more answers; failures: {self.failures}", reached)


async def another(stack: Stack, metric: str) -> None:
    """Until a counter of the operator has risen."""
    before = await counted(stack, metric)

    async def risen() -> bool:
        return await counted(stack, metric) > before

    await until(f"{metric} rises", risen)


async def counted(stack: Stack, metric: str) -> float:
    """A counter of the operator's metrics; 0 for one that is not there yet."""
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{stack.operator_url}/metrics") as answer,
    ):
        for line in (await answer.text()).splitlines():
            if line.startswith(f"{metric} "):
                return float(line.split()[-1])
    return 0.0


NewService = Callable[[dict[str, Any]], Awaitable[Service]]
"""Applies a service with this spec."""
