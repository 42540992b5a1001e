"""Why the simulated engine ends: one reason, one exit code, one line on standard error."""

from __future__ import annotations

import re

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


def find_error(log: str) -> EngineError | None:
    """The last error that a log holds."""
    found = _LINE.findall(log)
    return EngineError(*found[-1]) if found else None
