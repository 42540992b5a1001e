"""Carries out the probes of one running container."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

import aiohttp

from slm_dev.local_node.probe import ProbeTracker
from slm_dev.local_node.process import Launch, run_to_end
from slm_dev.local_node.spec import ContainerSpec, Exec, HttpGet, ProbeSpec


@dataclass(frozen=True)
class Health:
    """What the probes say of a running container."""

    started: bool
    ready: bool


class Prober:
    """Probes one attempt of a container; `on_health` is called with each change."""

    def __init__(
        self,
        container: ContainerSpec,
        launch: Launch,
        address: str,
        on_health: Callable[[Health], None],
    ) -> None:
        self._container = container
        self._launch = replace(launch, log=None)
        self._address = address
        self._on_health = on_health

    async def run_until_unhealthy(self) -> ProbeSpec:
        """Probes until the container has to be killed; returns the probe that decided so."""
        startup, readiness = self._container.startup, self._container.readiness
        if startup is not None and not await self._passes(startup):
            return startup
        self._on_health(Health(started=True, ready=readiness is None))
        async with asyncio.TaskGroup() as group:
            following = group.create_task(self._follow_readiness(readiness))
            failed = await self._first_failure(self._container.liveness)
            following.cancel()
        return failed

    async def _passes(self, startup: ProbeSpec) -> bool:
        async for verdict in self._verdicts(startup):
            return verdict
        raise AssertionError("verdicts do not end")

    async def _follow_readiness(self, readiness: ProbeSpec | None) -> None:
        if readiness is not None:
            async for verdict in self._verdicts(readiness):
                self._on_health(Health(started=True, ready=verdict))

    async def _first_failure(self, liveness: ProbeSpec | None) -> ProbeSpec:
        if liveness is not None:
            async for verdict in self._verdicts(liveness):
                if not verdict:
                    return liveness
        await asyncio.get_running_loop().create_future()
        raise AssertionError("a future that nothing sets is not done")

    async def _verdicts(self, spec: ProbeSpec) -> AsyncIterator[bool]:
        """Checks for ever, yielding the verdict after each check once there is one."""
        loop = asyncio.get_running_loop()
        tracker = ProbeTracker.begin(spec, loop.time())
        while True:
            await asyncio.sleep(tracker.due_at - loop.time())
            tracker = tracker.observe(await self._check(spec), loop.time())
            if tracker.verdict is not None:
                yield tracker.verdict

    async def _check(self, spec: ProbeSpec) -> bool:
        match spec.action:
            case Exec(argv):
                return await run_to_end(replace(self._launch, argv=argv), spec.timeout_seconds)
            case HttpGet() as get:
                return await http_get(get, self._address, spec.timeout_seconds)


async def http_get(get: HttpGet, address: str, timeout_seconds: float) -> bool:
    """Whether a GET is answered in time with a status from 200 to 399."""
    url = f"{get.scheme.lower()}://{get.host or address}:{get.port}{get.path}"
    timeout = aiohttp.ClientTimeout(total=timeout_seconds)
    try:
        # As the kubelet: a new connection each time, and certificates are not checked.
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, headers=get.headers, ssl=False, allow_redirects=False) as response,
        ):
            return 200 <= response.status < 400
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return False
