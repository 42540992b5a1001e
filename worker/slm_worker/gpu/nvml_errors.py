"""PURE: what NVML's error codes mean for the pack: an unknown value, or a state of the GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pynvml

from slm_worker.gpu.base import DeviceError
from slm_worker.gpu.health import Diagnosis

UNRESPONSIVE_AFTER_SECONDS = 10.0
"""A driver that starts or ends processes may hold a call for a second or two; not for so long."""

ABSENT = frozenset(
    {
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_DEPRECATED,
    }
)
"""This GPU, driver or container does not tell the value, today or tomorrow: it is unknown."""
PASSING = frozenset(
    {pynvml.NVML_ERROR_INSUFFICIENT_SIZE, pynvml.NVML_ERROR_NO_DATA, pynvml.NVML_ERROR_NOT_READY}
)
"""Unknown this once: a list grew between its two calls, or nothing was sampled yet."""
WHOLE_DEVICE = frozenset(
    {
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_GPU_IS_LOST,
        pynvml.NVML_ERROR_RESET_REQUIRED,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
        pynvml.NVML_ERROR_GPU_NOT_FOUND,
    }
)
"""One value's failure with one of these speaks for all; any other may be that value's alone."""


@dataclass(frozen=True)
class _Meaning:
    state: Literal["Unresponsive", "Lost"]
    reason: str
    remedy: str


_LOOK = "look for Xid messages in the node's kernel log"
_MEANINGS: dict[int, _Meaning] = {
    pynvml.NVML_ERROR_GPU_IS_LOST: _Meaning(
        "Lost",
        "GPULost",
        "it fell off the bus or is not accessible: drain and restart the node, and " + _LOOK,
    ),
    pynvml.NVML_ERROR_RESET_REQUIRED: _Meaning(
        "Lost", "GPUResetRequired", "drain the node and reset the GPU (nvidia-smi --gpu-reset)"
    ),
    pynvml.NVML_ERROR_NOT_FOUND: (
        missing := _Meaning(
            "Lost",
            "GPUMissing",
            "the driver no longer shows this GPU: see nvidia-smi -L on the node, or delete the "
            "Pod to get another GPU",
        )
    ),
    pynvml.NVML_ERROR_GPU_NOT_FOUND: missing,
    pynvml.NVML_ERROR_UNINITIALIZED: (
        reloaded := _Meaning(
            "Unresponsive", "DriverReloaded", "none is needed, the library is initialised again"
        )
    ),
    pynvml.NVML_ERROR_INVALID_ARGUMENT: reloaded,  # its word for a handle from before a reload
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: _Meaning(
        "Unresponsive", "DriverNotLoaded", "load the NVIDIA kernel driver on the node"
    ),
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: _Meaning(
        "Unresponsive",
        "DriverMissing",
        "install the NVIDIA driver on the node and run the pod with the NVIDIA container "
        "runtime, which mounts libnvidia-ml.so.1",
    ),
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: _Meaning(
        "Unresponsive",
        "DriverMismatch",
        "the driver was updated under this pack: delete the Pod so that it gets the new library, "
        "and drain and restart the node if nvidia-smi fails there too",
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: _Meaning(
        "Unresponsive",
        "GPUForbidden",
        "give the pod access to the GPU: request nvidia.com/gpu: 1 and allow the device files "
        "/dev/nvidia*",
    ),
}
_OTHER = _Meaning("Unresponsive", "DriverError", _LOOK)


class NvmlRefusedError(DeviceError):
    """The driver answered a call with an error; ``code`` is NVML's."""

    def __init__(self, doing: str, code: int) -> None:
        self.code = code
        meaning = _MEANINGS.get(code, _OTHER)
        super().__init__(f"NVML failed while {doing}: {words_of(code)}: {meaning.remedy}.")


class NvmlHangsError(DeviceError):
    """The driver has not answered a call for ``waited_seconds``, and still may."""

    def __init__(self, doing: str, waited_seconds: float, why: str) -> None:
        self.waited_seconds = waited_seconds
        super().__init__(
            f"The NVIDIA driver hangs while {doing}: {why}: {_LOOK}, then drain and restart the "
            "node."
        )


class MigEnabledError(DeviceError):
    """The GPU is cut into instances, and a pack owns a whole one."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"MIG is enabled on {name}, but a pack owns one whole GPU: switch it off on the node "
            "(nvidia-smi -mig 0, then a reset of the GPU), or request a GPU without MIG."
        )


def words_of(code: int) -> str:
    """NVML's words for its code."""
    return str(pynvml.NVMLError(code))


def diagnosis_of(error: DeviceError) -> Diagnosis | None:
    """The GPU's state by why it could not be read; None for a call that is only slow so far."""
    if isinstance(error, NvmlRefusedError):
        meaning = _MEANINGS.get(error.code, _OTHER)
        return Diagnosis(
            meaning.state, meaning.reason, f"{words_of(error.code)}: {meaning.remedy}."
        )
    if isinstance(error, MigEnabledError):
        return Diagnosis("Lost", "MIGEnabled", str(error))
    if isinstance(error, NvmlHangsError):
        if error.waited_seconds < UNRESPONSIVE_AFTER_SECONDS:
            return None
        return Diagnosis(
            "Unresponsive",
            "DriverHangs",
            f"a call of the NVIDIA driver does not return: {_LOOK}, and drain and restart the "
            "node if it lasts.",
        )
    return Diagnosis("Unresponsive", "DriverError", str(error))
