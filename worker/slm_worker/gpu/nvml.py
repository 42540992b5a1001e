"""An NVIDIA GPU, read through NVML (the driver's management library)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import pynvml

from slm_worker.gpu.base import DeviceError, DeviceIdentity, DeviceReading, MpsStatus
from slm_worker.gpu.mps import MpsDaemon

CALL_TIMEOUT_SECONDS = 10.0

_REMEDIES: dict[int, str] = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "install the NVIDIA driver on the node and run the pod "
    "with the NVIDIA container runtime, which mounts libnvidia-ml.so.1",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "load the NVIDIA kernel driver on the node",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the driver was updated under a running kernel "
    "module: drain and restart the node",
    pynvml.NVML_ERROR_NO_PERMISSION: "give the pod access to the GPU: request nvidia.com/gpu: 1 "
    "and allow the device files /dev/nvidia*",
    pynvml.NVML_ERROR_GPU_IS_LOST: "it fell off the bus or is not accessible: drain and restart "
    "the node, and look for Xid messages in its kernel log",
    pynvml.NVML_ERROR_RESET_REQUIRED: "drain the node and reset the GPU",
    pynvml.NVML_ERROR_UNKNOWN: "look for Xid messages in the node's kernel log",
}
_ABSENT_COUNTER = (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class NvmlDevice:
    """The pack's one whole GPU, and the MPS daemon through which replicas share it.

    Energy is NVML's own cumulative counter (mJ, since the driver was loaded). GPUs older than
    Volta have none: energy is then None, as power readings are not integrated in its place.
    """

    def __init__(
        self, identity: DeviceIdentity, handle: Any, nvml: NvmlCaller, mps: MpsDaemon
    ) -> None:
        self.identity = identity
        self._handle = handle
        self._nvml = nvml
        self._mps = mps

    @classmethod
    async def open(
        cls,
        run_dir: Path,
        environ: Mapping[str, str] = os.environ,
        timeout_seconds: float = CALL_TIMEOUT_SECONDS,
    ) -> Self:
        """Finds the GPU and starts MPS below ``run_dir``.

        Raises DeviceError without a working driver or unless exactly one GPU is the pack's.
        """
        nvml = NvmlCaller(timeout_seconds)
        await nvml.call("starting NVML", pynvml.nvmlInit)
        handle, identity = await nvml.call("looking for the GPU", lambda: _find_gpu(environ))
        return cls(identity, handle, nvml, await MpsDaemon.start(run_dir))

    @property
    def mps(self) -> MpsStatus:
        return self._mps.status

    async def read(self) -> DeviceReading:
        """Both counters; power is the driver's own sampled reading. Raises DeviceError."""
        return await self._nvml.call("reading energy and power", self._read)

    def engine_env(self) -> dict[str, str]:
        return self._mps.engine_env()

    async def release(self, pids: Collection[int]) -> None:
        """Nothing is held beyond a process's life."""

    async def recover(self) -> None:
        """Nothing is shared that could break."""

    async def close(self) -> None:
        """Ends the MPS daemon; a driver that does not let go is logged, not waited for."""
        await self._mps.close()
        try:
            await self._nvml.call("ending NVML", pynvml.nvmlShutdown)
        except DeviceError as error:
            _log.warning("%s", error)

    def _read(self) -> DeviceReading:
        energy_millijoules = _counter(pynvml.nvmlDeviceGetTotalEnergyConsumption, self._handle)
        power_milliwatts = _counter(pynvml.nvmlDeviceGetPowerUsage, self._handle)
        power_watts = None if power_milliwatts is None else power_milliwatts / 1000
        return DeviceReading(energy_millijoules, power_watts)


class NvmlCaller:
    """Calls NVML outside the event loop, one call at a time, and gives up on one that hangs.

    A driver in trouble can hold a call for ever. Each call has a daemon thread of its own: unlike
    a pool's, such a thread does not keep the process from ending. While one hangs, no further
    thread is started.
    """

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._turn = asyncio.Lock()
        self._returned = threading.Event()
        self._returned.set()

    async def call(self, doing: str, function: Callable[[], _T]) -> _T:
        """``function()``; ``doing`` names it in errors. Raises DeviceError."""
        async with self._turn:
            if not self._returned.is_set():
                raise _hanging(f"{doing}: an earlier call still hangs")
            answer: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
            self._returned.clear()
            threading.Thread(
                target=self._run, args=(function, answer), name="nvml", daemon=True
            ).start()
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    return await answer
            except TimeoutError:
                raise _hanging(f"{doing}: no answer in {self._timeout_seconds:g} s") from None
            except pynvml.NVMLError as error:
                remedy = _REMEDIES.get(error.value, "look at the driver's messages on the node")
                raise DeviceError(f"NVML failed while {doing}: {error}: {remedy}.") from error
            finally:
                answer.cancel()

    def _run(self, function: Callable[[], _T], answer: asyncio.Future[_T]) -> None:
        """Runs in the call's thread; the loop may have given up or ended meanwhile."""
        try:
            result = function()
        except Exception as error:
            self._returned.set()
            _deliver(answer, answer.set_exception, error)
        else:
            self._returned.set()
            _deliver(answer, answer.set_result, result)


def _deliver(answer: asyncio.Future[_T], settle: Callable[[Any], None], value: Any) -> None:
    def settle_if_awaited() -> None:
        if not answer.done():
            settle(value)

    with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
        answer.get_loop().call_soon_threadsafe(settle_if_awaited)


def _hanging(what: str) -> DeviceError:
    return DeviceError(
        f"The NVIDIA driver hangs while {what}: look for Xid messages in the node's kernel log, "
        "then drain and restart the node."
    )


def _counter(read: Callable[[Any], int], handle: Any) -> int | None:
    """The counter's value, or None where this GPU or driver has no such counter."""
    try:
        return read(handle)
    except pynvml.NVMLError as error:
        if error.value in _ABSENT_COUNTER:
            return None
        raise


def _find_gpu(environ: Mapping[str, str]) -> tuple[Any, DeviceIdentity]:
    handles = [
        pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())
    ]
    uuids = [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]
    handle = handles[chosen_gpu(uuids, environ)]
    identity = DeviceIdentity(
        kind="NVIDIA",
        name=pynvml.nvmlDeviceGetName(handle),
        memory_bytes=pynvml.nvmlDeviceGetMemoryInfo(handle).total,
        simulated=False,
    )
    return handle, identity


def chosen_gpu(uuids: Sequence[str], environ: Mapping[str, str]) -> int:
    """Index of the pack's GPU among those that the driver shows, given by their ``uuids``.

    CUDA_VISIBLE_DEVICES decides where it is set. Otherwise a single GPU needs no choice (inside a
    container NVIDIA_VISIBLE_DEVICES may name it by the node's numbering), and among several
    NVIDIA_VISIBLE_DEVICES decides. Raises DeviceError unless exactly one GPU remains.
    """
    if not uuids:
        raise DeviceError(
            "The driver shows no GPU: request nvidia.com/gpu: 1 for the pod, or set gpu.kind CPU."
        )
    variable = "CUDA_VISIBLE_DEVICES"
    if variable not in environ:
        if len(uuids) == 1:
            return 0
        variable = "NVIDIA_VISIBLE_DEVICES"
    value = environ.get(variable, "all")
    entries = [entry.strip() for entry in value.split(",") if entry.strip()]
    chosen = range(len(uuids)) if entries == ["all"] else [_index(e, uuids) for e in entries]
    if len(chosen) != 1 or chosen[0] is None:
        raise DeviceError(
            f"A pack owns one whole GPU, but the driver shows {len(uuids)} ({', '.join(uuids)}) "
            f"and {variable} is {value!r}: request nvidia.com/gpu: 1, or set CUDA_VISIBLE_DEVICES "
            "to the index or UUID of one of them (no MIG slice)."
        )
    return chosen[0]


def _index(entry: str, uuids: Sequence[str]) -> int | None:
    """The GPU that an entry names by index, or by a UUID or its beginning (as CUDA allows)."""
    if entry.isdecimal():
        return int(entry) if int(entry) < len(uuids) else None
    named = [index for index, uuid in enumerate(uuids) if uuid.startswith(entry)]
    return named[0] if len(named) == 1 else None
