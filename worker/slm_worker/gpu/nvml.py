"""An NVIDIA GPU, read through NVML (the driver's management library)."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Literal, Self

from slm_worker.gpu.base import (
    HEALTHY,
    DeviceError,
    DeviceIdentity,
    DeviceReading,
    MpsStatus,
)
from slm_worker.gpu.energy import EnergyMeter
from slm_worker.gpu.health import Diagnosis, diagnose, next_health
from slm_worker.gpu.mps import NO_LIMITS, MpsDaemon
from slm_worker.gpu.nvml_caller import NvmlCaller
from slm_worker.gpu.nvml_errors import NvmlHangsError, diagnosis_of
from slm_worker.gpu.nvml_gpu import GpuValues, OpenGpu, close, open_again, open_first, read_values
from slm_worker.gpu.throttling import RecentThrottling
from slm_worker.gpu.xid import critical, explain
from slm_worker.replicas.health import backoff_seconds
from slm_worker.wire import MpsConfig

OPEN_PATIENCE_SECONDS = 20.0
"""Without persistence mode the driver wakes each GPU of the node first, seconds apiece."""
READ_PATIENCE_SECONDS = 2.0
"""A reading that takes longer is answered without values: engines are read at the same time."""
OPENING = "opening the GPU again"

_log = logging.getLogger(__name__)


class NvmlDevice:
    """The pack's one whole GPU, and the MPS daemon through which replicas share it.

    A GPU or driver that fails is a state in the reading, never an exception: after an error NVML
    is initialised again, with a growing delay, until the same GPU answers. ``clock`` is the
    agent's: seconds, monotonic.
    """

    def __init__(
        self,
        gpu: OpenGpu,
        nvml: NvmlCaller,
        mps: MpsDaemon,
        clock: Callable[[], float],
        read_patience_seconds: float,
    ) -> None:
        self.identity: DeviceIdentity = gpu.identity
        self._gpu: OpenGpu | None = gpu
        self._engine_env = dict(gpu.engine_env)
        self._nvml = nvml
        self._mps = mps
        self._clock = clock
        self._read_patience_seconds = read_patience_seconds
        self._health = HEALTHY
        self._energy = EnergyMeter()
        self._has_energy_counter: bool | None = None
        self._throttling = RecentThrottling()
        self._critical_xids: tuple[int, ...] = ()
        self._failures = 0
        self._opening: asyncio.Task[OpenGpu] | None = None
        self._opening_since_seconds = 0.0
        self._open_again_at_seconds = 0.0

    @classmethod
    async def open(
        cls,
        run_dir: Path,
        environ: Mapping[str, str] = os.environ,
        *,
        mps: MpsConfig = NO_LIMITS,
        nvml: NvmlCaller | None = None,
        clock: Callable[[], float] = time.monotonic,
        open_patience_seconds: float = OPEN_PATIENCE_SECONDS,
        read_patience_seconds: float = READ_PATIENCE_SECONDS,
    ) -> Self:
        """Finds the GPU and starts MPS below ``run_dir``.

        ``nvml`` is to be kept over tries: a new one would not know of a call that still hangs, and
        leave one more thread in the driver. Raises DeviceError without a working driver, unless
        exactly one GPU is the pack's, and when that GPU has MIG enabled.
        """
        nvml = nvml or NvmlCaller(clock)
        find = partial(open_first, environ)
        gpu = await nvml.call("looking for the GPU", open_patience_seconds, find)
        daemon = await MpsDaemon.start(run_dir, mps, gpu.identity.uuid, clock=clock)
        return cls(gpu, nvml, daemon, clock, read_patience_seconds)

    @property
    def mps(self) -> MpsStatus:
        return self._mps.status

    async def read(self) -> DeviceReading:
        """All that the driver tells; without an answer a reading of unknowns that says why.

        Energy is NVML's own counter (mJ). A GPU older than Volta has none: its power readings are
        then integrated, and ``energy_source`` says so. Power is the driver's sampled reading.
        """
        if self._gpu is None and self._clock() < self._open_again_at_seconds:
            return self._unknown()
        try:
            gpu = self._gpu or await self._opened_again()
            read = partial(read_values, gpu)
            values = await self._nvml.call("reading the GPU", self._read_patience_seconds, read)
        except DeviceError as error:
            self._note_failure(error)
            return self._unknown()
        self._failures = 0
        self._note_xids(gpu)
        return self._reading(values)

    def engine_env(self, memory_fraction: float | None = None) -> dict[str, str]:
        memory_bytes = None
        if memory_fraction is not None:
            memory_bytes = int(memory_fraction * self.identity.memory_bytes)
        return self._engine_env | self._mps.engine_env(memory_bytes)

    async def release(self, pids: Collection[int]) -> None:
        """Ends their GPU work through MPS, so that their end is no fault of the others'."""
        await self._mps.release(pids)

    async def recover(self) -> None:
        """Brings MPS back."""
        await self._mps.recover()

    async def close(self) -> None:
        """Ends the MPS daemon; a driver that does not let go is logged, not waited for."""
        await self._mps.close()
        if self._opening is not None:
            self._opening.cancel()
        try:
            await self._nvml.call("ending NVML", self._read_patience_seconds, close)
        except DeviceError as error:
            _log.warning("%s", error)

    async def _opened_again(self) -> OpenGpu:
        """Raises DeviceError. What the former driver reported is over with it.

        Readings do not wait for a slow opening, and do not begin it anew either.
        """
        if self._opening is None:
            again = partial(open_again, self.identity.uuid)
            call = self._nvml.call(OPENING, OPEN_PATIENCE_SECONDS, again)
            self._opening = asyncio.create_task(call)
            self._opening_since_seconds = self._clock()
        opening = self._opening
        done, _ = await asyncio.wait({opening}, timeout=self._read_patience_seconds)
        if not done:
            waited_seconds = self._clock() - self._opening_since_seconds
            raise NvmlHangsError(OPENING, waited_seconds, "no answer yet")
        if self._opening is not opening:
            return opening.result()  # another reading waited too, and took note of it
        self._opening = None
        gpu = opening.result()
        _log.info("NVML is initialised again, driver %s", gpu.identity.driver_version)
        self._gpu, self.identity, self._critical_xids = gpu, gpu.identity, ()
        return gpu

    def _note_failure(self, error: DeviceError) -> None:
        found = diagnosis_of(error)
        if found is not None:
            self._set_health(found)
        if isinstance(error, NvmlHangsError):
            return  # The call may still return; while it does not, nothing else could be called.
        self._gpu = None
        self._failures += 1
        self._open_again_at_seconds = self._clock() + backoff_seconds(self._failures)

    def _reading(self, values: GpuValues) -> DeviceReading:
        now_seconds = self._clock()
        self._has_energy_counter = values.has_energy_counter
        if values.energy_millijoules is not None:
            self._energy = self._energy.counted(values.energy_millijoules)
        elif not values.has_energy_counter and values.power_watts is not None:
            self._energy = self._energy.integrated(values.power_watts, now_seconds)
        self._throttling = self._throttling.after(values.throttle_reasons, now_seconds)
        self._set_health(diagnose(values.signs, self._critical_xids, self._throttling.reasons))
        measured = values.energy_millijoules if values.has_energy_counter else values.power_watts
        return DeviceReading(
            energy_millijoules=None if measured is None else self._energy.total_millijoules,
            power_watts=values.power_watts,
            energy_source=self._energy_source(),
            memory_used_bytes=values.memory_used_bytes,
            utilization_percent=values.utilization_percent,
            throttle_reasons=values.throttle_reasons,
            process_memory_bytes=values.process_memory_bytes,
            health=self._health,
        )

    def _unknown(self) -> DeviceReading:
        return DeviceReading(
            energy_millijoules=None,
            power_watts=None,
            energy_source=self._energy_source(),
            health=self._health,
        )

    def _energy_source(self) -> Literal["Counter", "Integrated", "Unknown"]:
        if self._has_energy_counter:
            return "Counter"
        return "Unknown" if self._energy.power_reading is None else "Integrated"

    def _note_xids(self, gpu: OpenGpu) -> None:
        while gpu.arrived_xids:
            xid = gpu.arrived_xids.popleft()
            _log.warning("the driver reported %s", explain(xid))
            self._critical_xids = critical((*self._critical_xids, xid))

    def _set_health(self, found: Diagnosis | None) -> None:
        before, self._health = self._health, next_health(self._health, found, self._clock())
        if (before.state, before.reason) != (self._health.state, self._health.reason):
            _log.warning(
                "the GPU's health: %s %s %s",
                self._health.state,
                self._health.reason,
                self._health.message,
            )
