"""Reads engines, device and router at the same moment, twice a second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from slm_worker.engine.client import EngineNotAnsweringError
from slm_worker.engine.metrics import EngineSample
from slm_worker.gpu.base import DeviceError, DeviceReading
from slm_worker.gpu.throttling import POWER_CAP, SLOWDOWNS
from slm_worker.measure import EngineReading, Meter, Moment
from slm_worker.problems import ProblemLog
from slm_worker.replicas.member import Replica
from slm_worker.routing.router import RouterError
from slm_worker.wire import Counters, GpuHealth, Problem

SAMPLE_INTERVAL_SECONDS = 0.5
STOPPING_STATES = ("Lost", "Unresponsive")
"""Of a device's health: they keep the pack from its plan. A degraded GPU still serves."""

log = logging.getLogger(__name__)


class ReadableDevice(Protocol):
    async def read(self) -> DeviceReading: ...


class RouterReading(Protocol):
    @property
    def queued(self) -> int: ...
    @property
    def in_flight(self) -> Mapping[int, int]: ...


class ReadableRouter(Protocol):
    async def stats(self) -> RouterReading: ...


class Sampler:
    """``running`` answers the replicas to read, ``starts`` how many engines were started."""

    def __init__(
        self,
        device: ReadableDevice,
        router: ReadableRouter,
        *,
        running: Callable[[], Sequence[Replica]],
        starts: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        self._device = device
        self._router = router
        self._running = running
        self._starts = starts
        self._clock = clock
        self._meter = Meter()
        self._lock = asyncio.Lock()
        self.counters: Counters | None = None
        self.reading: DeviceReading | None = None
        self.router_queue = 0
        self._device_trouble = ProblemLog(clock)

    @property
    def device_problem(self) -> Problem | None:
        return self._device_trouble.current

    async def run(self) -> None:
        """Samples at even intervals until it is cancelled."""
        due_seconds = self._clock()
        while True:
            await self.sample()
            due_seconds = max(due_seconds + SAMPLE_INTERVAL_SECONDS, self._clock())
            await asyncio.sleep(due_seconds - self._clock())

    async def sample(self) -> None:
        """One sample now. Samples take turns, or an older one would look like a reset."""
        async with self._lock:
            replicas = [(one, one.admitted) for one in self._running()]
            samples, reading, queued = await asyncio.gather(
                asyncio.gather(*(_scrape(one) for one, _ in replicas)),
                self._read_device(),
                self._read_queue(),
            )
            now_seconds = self._clock()
            engines = {}
            for (one, admitted), sample in zip(replicas, samples, strict=True):
                engines[(one.index, one.starts)] = EngineReading(
                    sample, admitted, one.settings.max_num_seqs
                )
                one.last_sample = sample
                if one.watch is not None:
                    cpu_seconds = None
                    if sample is None and one.run is not None:
                        cpu_seconds = one.run.process.cpu_seconds()
                    one.watch.sampled(sample, now_seconds, cpu_seconds)
            self.reading = reading
            self.router_queue = queued
            self.counters = self._meter.record(
                Moment(
                    now_seconds,
                    engines,
                    queued,
                    reading.energy_millijoules,
                    self._starts(),
                    throttled=not SLOWDOWNS.isdisjoint(reading.throttle_reasons),
                    power_capped=POWER_CAP in reading.throttle_reasons,
                )
            )

    async def _read_device(self) -> DeviceReading:
        """A device that cannot be read is a reading too, so that its state is seen as any other."""
        try:
            reading = await self._device.read()
        except DeviceError as error:
            health = GpuHealth(state="Unresponsive", reason="DeviceUnreadable", message=str(error))
            reading = DeviceReading(energy_millijoules=None, power_watts=None, health=health)
        health = reading.health
        if health.state in STOPPING_STATES:
            self._device_trouble.report(health.reason, health.message)
        else:
            self._device_trouble.clear()
        return reading

    async def _read_queue(self) -> int:
        try:
            return (await self._router.stats()).queued
        except RouterError:
            # The agent sees it in its own pass, and restarts the router. Nobody waits meanwhile.
            return 0


async def _scrape(one: Replica) -> EngineSample | None:
    if one.run is None:
        return None
    try:
        return await one.run.client.scrape()
    except EngineNotAnsweringError as error:
        log.warning("%s", error, extra={"replica": one.index})
        return None
