"""PURE: the lines that the simulated GPU's daemon understands, and what it answers."""

from __future__ import annotations

import json

from slm_worker.gpu.simulated.state import MAX_RUNNING, OutOfMemoryError, SimulatedGpu

DEVICE_NAME = "Simulated H100 64GB"
MAX_LINE_BYTES = 4096

Answer = dict[str, object]


class InvalidRequestError(Exception):
    """A line that the protocol does not know."""


def answer(gpu: SimulatedGpu, engine: int, line: bytes) -> Answer:
    """Carries out one line of the protocol for the connection numbered ``engine``."""
    try:
        return _carry_out(gpu, engine, line)
    except OutOfMemoryError as error:
        return {"reason": "OutOfMemory", "error": str(error)}
    except InvalidRequestError as error:
        return {"reason": "InvalidRequest", "error": str(error)}


def _carry_out(gpu: SimulatedGpu, engine: int, line: bytes) -> Answer:
    try:
        request = json.loads(line)
    except ValueError as error:
        raise InvalidRequestError(f"not a line of JSON: {error}") from None
    if not isinstance(request, dict):
        raise InvalidRequestError("not a JSON object: send {'op': ...}")
    match request.get("op"):
        case "read":
            return {
                "energy_millijoules": gpu.energy_millijoules(),
                "power_watts": gpu.power_watts,
                "memory_used_bytes": gpu.memory_used_bytes,
                "memory_bytes": gpu.memory_bytes,
                "name": DEVICE_NAME,
            }
        case "attach":
            if gpu.is_attached(engine):
                raise InvalidRequestError("attached already: open another connection")
            gpu.attach(engine, _whole(request, "memory_bytes", 2**63))
            return {}
        case "step":
            running = _whole(request, "running", MAX_RUNNING)
            if not gpu.is_attached(engine):
                raise InvalidRequestError("step before attach: attach first")
            return {"step_seconds": gpu.step(engine, running)}
        case op:
            raise InvalidRequestError(f"op {op!r}: use read, attach or step")


def _whole(request: dict[str, object], field: str, limit: int) -> int:
    value = request.get(field)
    if type(value) is not int or not 0 <= value <= limit:
        raise InvalidRequestError(f"{field} {value!r}: use a whole number from 0 to {limit}")
    return value
