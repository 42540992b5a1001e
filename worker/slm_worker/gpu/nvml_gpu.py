"""The pack's GPU through pynvml: opening it and reading it. Every function here may block."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pynvml

from slm_worker.gpu.base import DeviceError, DeviceIdentity
from slm_worker.gpu.health import Signs
from slm_worker.gpu.nvml_choice import chosen_gpu, engine_choice
from slm_worker.gpu.nvml_errors import ABSENT, PASSING, WHOLE_DEVICE, MigEnabledError, words_of
from slm_worker.gpu.throttling import throttle_names

MAX_EVENTS_A_READING = 64
"""A storm of Xids is told in parts, so that it cannot hold up a reading."""


@dataclass(frozen=True)
class OpenGpu:
    identity: DeviceIdentity
    handle: Any
    xid_events: Any | None
    """NVML's set of events in which Xids arrive; None where there are none."""
    arrived_xids: deque[int] = field(default_factory=deque)
    """Filled by readings, emptied by the device: one whose call is given up still tells its Xids,
    and a driver in trouble is what they speak of."""
    engine_env: Mapping[str, str] = field(default_factory=dict)
    """What makes an engine process run on this GPU; known from the first opening."""


@dataclass(frozen=True)
class GpuValues:
    """One reading of all there is. None: not on this GPU, or not told now."""

    energy_millijoules: int | None
    has_energy_counter: bool
    power_watts: float | None
    memory_used_bytes: int | None
    utilization_percent: int | None
    throttle_reasons: tuple[str, ...]
    process_memory_bytes: Mapping[int, int] | None
    signs: Signs


def open_first(environ: Mapping[str, str]) -> OpenGpu:
    """Initialises NVML and opens the GPU that ``environ`` names, whatever ails the others.

    Raises NVMLError, and DeviceError unless exactly one whole GPU is the pack's.
    """
    _initialise()
    handles: list[Any] = []
    uuids: list[str] = []
    failures: dict[int, pynvml.NVMLError] = {}
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle, uuid = None, ""
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            uuid = pynvml.nvmlDeviceGetUUID(handle)
        except pynvml.NVMLError as error:
            failures[index] = error
        handles.append(handle)
        uuids.append(uuid)
    try:
        chosen = chosen_gpu(uuids, environ)
    except DeviceError as error:
        if not failures:
            raise
        if not any(uuids):
            raise next(iter(failures.values())) from None
        # The pack's own may be among those of which the driver does not tell the UUID.
        told = ", ".join(f"{index} ({failure})" for index, failure in failures.items())
        raise DeviceError(f"{error} The driver refuses GPU {told}.") from None
    if chosen in failures:
        raise failures[chosen]
    return replace(_open(handles[chosen]), engine_env=engine_choice(chosen, uuids, environ))


def open_again(uuid: str) -> OpenGpu:
    """Initialises NVML anew, after a reset or a reload of the driver, and opens the same GPU.

    Raises NVMLError and DeviceError.
    """
    _initialise()
    return _open(pynvml.nvmlDeviceGetHandleByUUID(uuid))


def close() -> None:
    """Lets the driver go, however it is. All handles and event sets become invalid."""
    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlShutdown()


def read_values(gpu: OpenGpu) -> GpuValues:
    """Raises NVMLError when the GPU as a whole cannot be read; single values become None."""
    ask = _Inquiry(gpu.handle)
    energy_millijoules = ask("energy", pynvml.nvmlDeviceGetTotalEnergyConsumption)
    power_milliwatts = ask("power", pynvml.nvmlDeviceGetPowerUsage)
    memory = ask("memory", pynvml.nvmlDeviceGetMemoryInfo)
    ask.raise_if_nothing_answered()
    utilization = ask("utilization", pynvml.nvmlDeviceGetUtilizationRates)
    throttle_mask = ask("throttle reasons", _throttle_mask)
    ecc_errors = ask(
        "ECC errors",
        pynvml.nvmlDeviceGetTotalEccErrors,
        pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
        pynvml.NVML_VOLATILE_ECC,
    )
    remapped = ask("remapped rows", pynvml.nvmlDeviceGetRemappedRows)
    retired = ask("retired pages", _retired_pages)
    retirement_pending = ask("page retirement", pynvml.nvmlDeviceGetRetiredPagesPendingStatus)
    processes = ask("processes", _process_memory_bytes)
    if gpu.xid_events is not None:
        gpu.arrived_xids.extend(_arrived_xids(gpu.xid_events))
    return GpuValues(
        energy_millijoules=energy_millijoules,
        has_energy_counter="energy" not in ask.absent,
        power_watts=None if power_milliwatts is None else power_milliwatts / 1000,
        memory_used_bytes=None if memory is None else memory.used,
        utilization_percent=None if utilization is None else utilization.gpu,
        throttle_reasons=() if throttle_mask is None else throttle_names(throttle_mask),
        process_memory_bytes=processes,
        signs=Signs(
            uncorrected_memory_errors=ecc_errors,
            row_remap_pending=None if remapped is None else bool(remapped[2]),
            row_remap_failed=None if remapped is None else bool(remapped[3]),
            retired_pages=retired,
            page_retirement_pending=None
            if retirement_pending is None
            else bool(retirement_pending),
            unreadable={what: words_of(code) for what, code in ask.failed.items()},
        ),
    )


def _initialise() -> None:
    """NVML counts its initialisations: one that an earlier failure left would keep the library as
    it is through all that follow."""
    close()
    pynvml.nvmlInit()


class _Inquiry:
    """Asks one handle for values, and keeps apart what is absent and what failed."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._answered = False
        self.absent: set[str] = set()
        self.failed: dict[str, int] = {}

    def __call__(self, what: str, function: Callable[..., Any], *arguments: object) -> Any | None:
        try:
            value = function(self._handle, *arguments)
        except pynvml.NVMLError as error:
            if error.value in WHOLE_DEVICE:
                raise
            if error.value in ABSENT:
                self.absent.add(what)
            elif error.value not in PASSING:
                self.failed[what] = error.value
            return None
        self._answered = True
        return value

    def raise_if_nothing_answered(self) -> None:
        """Failures of every value so far are no longer the values' own."""
        if self.failed and not self._answered:
            raise pynvml.NVMLError(next(iter(self.failed.values())))


def _open(handle: Any) -> OpenGpu:
    name = pynvml.nvmlDeviceGetName(handle)
    if _mig_enabled(handle):
        raise MigEnabledError(name)
    return OpenGpu(
        identity=DeviceIdentity(
            kind="NVIDIA",
            name=name,
            memory_bytes=_memory_bytes(handle, name),
            simulated=False,
            uuid=pynvml.nvmlDeviceGetUUID(handle),
            driver_version=pynvml.nvmlSystemGetDriverVersion(),
        ),
        handle=handle,
        xid_events=_xid_events(handle),
    )


def _memory_bytes(handle: Any, name: str) -> int:
    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    except pynvml.NVMLError as error:
        if error.value != pynvml.NVML_ERROR_NOT_SUPPORTED:
            raise
        raise DeviceError(
            f"{name} has no memory of its own: a GPU that shares the host's (unified memory) is "
            "not supported, for nobody can tell what a replica takes of it. Use another GPU."
        ) from error


def _mig_enabled(handle: Any) -> bool:
    try:
        current, _ = pynvml.nvmlDeviceGetMigMode(handle)
    except pynvml.NVMLError as error:
        if error.value in ABSENT:
            return False
        raise
    return bool(current == pynvml.NVML_DEVICE_MIG_ENABLE)


def _xid_events(handle: Any) -> Any | None:
    try:
        events = pynvml.nvmlEventSetCreate()
        pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, events)
    except pynvml.NVMLError as error:
        if error.value in WHOLE_DEVICE:
            raise
        return None
    return events


def _arrived_xids(events: Any) -> tuple[int, ...]:
    xids: list[int] = []
    while len(xids) < MAX_EVENTS_A_READING:
        try:
            xids.append(pynvml.nvmlEventSetWait_v2(events, 0).eventData)
        except pynvml.NVMLError as error:
            if error.value in WHOLE_DEVICE:
                raise
            break  # NVML's word for "no more" is a timeout
    return tuple(xids)


def _throttle_mask(handle: Any) -> int:
    try:
        return int(pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    except pynvml.NVMLError_FunctionNotFound:  # drivers before 535 have it under the older name
        return int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))


def _retired_pages(handle: Any) -> int:
    return sum(
        len(pynvml.nvmlDeviceGetRetiredPages(handle, cause))
        for cause in range(pynvml.NVML_PAGE_RETIREMENT_CAUSE_COUNT)
    )


def _process_memory_bytes(handle: Any) -> dict[int, int]:
    """Of processes with a CUDA context of their own, and of MPS clients where those are apart."""
    processes = pynvml.nvmlDeviceGetComputeRunningProcesses_v3(handle)
    try:
        processes += pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v3(handle)
    except pynvml.NVMLError as error:
        if error.value not in ABSENT:
            raise
    found: dict[int, int] = {}
    for process in processes:
        if process.usedGpuMemory is not None:
            found[process.pid] = max(process.usedGpuMemory, found.get(process.pid, 0))
    return found
