"""Why the simulated engine ends: one reason, one exit code, and what it prints on standard error.

What it finds out by itself it says in one line of its own. What the device does to it, it says in
the words of vLLM and CUDA, so that whoever reads real logs reads these too.
"""

from __future__ import annotations

import re

from slm_worker.gpu.simulated.faults import Ending

EXIT_CODES = {
    "EngineArgumentInvalid": 2,
    "ModelNotFound": 10,
    "ModelConfigInvalid": 11,
    "OutOfMemory": 12,
    "PortTaken": 13,
    "DeviceUnavailable": 14,
    "DeviceLost": 15,
}
"""DeviceUnavailable: no simulated GPU at the start. DeviceLost: it went away while serving."""
EXIT_TOLD_TWICE = 143
"""A second SIGTERM came before the requests in flight had ended."""
EXIT_FAILED = 1
"""vLLM's, whatever the cause."""

_LINE = re.compile(r"^error: ([A-Z][A-Za-z]+): (.+)$", re.MULTILINE)


class EngineError(Exception):
    """``reason`` is a key of EXIT_CODES; ``message`` has cause and remedy, on one line."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = " ".join(message.split())

    @property
    def line(self) -> str:
        return f"error: {self.reason}: {self.message}"


class DeviceFaultError(Exception):
    """The device ended this engine, or refused it as CUDA would: it prints :attr:`output` and
    ends with EXIT_FAILED, or by a signal where ``crash`` is set."""

    def __init__(self, cuda_error: str, *, crash: bool = False) -> None:
        super().__init__(cuda_error)
        self.cuda_error = cuda_error
        self.crash = crash

    @property
    def output(self) -> str:
        """As vLLM ends when its core process fails; of a crash the kernel alone speaks."""
        if self.crash:
            return "SIMULATED fault: segmentation fault\n"
        return (
            "ERROR [core.py] EngineCore encountered a fatal error. (SIMULATED fault)\n"
            "ERROR [core.py] Traceback (most recent call last):\n"
            f"ERROR [core.py] {self.cuda_error}\n"
            "ERROR [async_llm.py] vllm.v1.engine.exceptions.EngineDeadError: EngineCore "
            "encountered an issue. See stack trace (above) for the root cause.\n"
        )


MPS_NOT_READY = (
    "torch.AcceleratorError: CUDA error: MPS server is not ready to accept new MPS client requests"
)
GPU_LOST = "RuntimeError: CUDA error: no CUDA-capable device is detected (GPU is lost)"
_ENDINGS = {
    Ending.OUT_OF_MEMORY: "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    Ending.MPS_CULPRIT: (
        "torch.AcceleratorError: CUDA error: an illegal memory access was encountered"
    ),
    Ending.MPS_BYSTANDER: (
        "torch.AcceleratorError: CUDA error: the MPS client has been terminated "
        "(cudaErrorMpsClientTerminated)"
    ),
    Ending.GPU_LOST: GPU_LOST,
}


def fault_of(ending: Ending) -> DeviceFaultError:
    """What an engine that the device ends says."""
    if ending is Ending.CRASH:
        return DeviceFaultError("", crash=True)
    return DeviceFaultError(_ENDINGS[ending])


def find_error(log: str) -> EngineError | None:
    """The last error that a log holds in a line of the engine's own."""
    found = _LINE.findall(log)
    return EngineError(*found[-1]) if found else None
