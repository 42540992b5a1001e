"""PURE: the lines that the simulated GPU's daemon understands, and what it answers.

One JSON object a line, each answered with one:

- ``{"op": "read"}`` -> what :func:`reading` gives
- ``{"op": "attach", "memory_bytes": N, "model": {...}}`` -> delay_seconds: the connection is an
  engine from now on, running the model whose config.json is ``model``
- ``{"op": "resize", "memory_bytes": N}`` -> ``{}``: the engine holds so much from now on
- ``{"op": "step", "running": B}`` -> step_seconds, stalled, kv_share; 0 sequences end the engine's
  activity
- ``{"op": "release", "pids": [...]}`` -> ``{}``: these processes hold nothing any more
- ``{"op": "recover"}`` -> ``{}``: MPS takes engines again, if all that a fault ended are gone
- ``{"op": "inject", "fault": {...}}`` -> ended_pids; fields of :class:`faults.Injection`

A refusal is ``{"error": text, "reason": OutOfMemory, MpsNotReady, GpuLost or InvalidRequest}``.
An engine that has to end is told by a line of its own, ``{"end": Ending}``, at any time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError

from slm_worker.gpu.simulated.faults import (
    GPU_LOST_MESSAGE,
    MPS_FAULT_MESSAGE,
    Ending,
    Injection,
)
from slm_worker.gpu.simulated.state import (
    MAX_RUNNING,
    NoSuchEngineError,
    NotUsableError,
    OutOfMemoryError,
    Pace,
    SimulatedGpu,
)

MAX_LINE_BYTES = 64 * 1024
"""The longest line is an attach with a model's configuration."""
MAX_BYTES = 2**63

Request = Mapping[str, object]
Answer = dict[str, object]


class InvalidRequestError(Exception):
    """A line that the protocol does not know."""


@dataclass(frozen=True)
class Reply:
    """``answer`` goes to who asked; each connection in ``endings`` is told to end."""

    answer: Answer
    endings: Mapping[int, Ending] = field(default_factory=dict)


@dataclass(frozen=True)
class Server:
    """One simulated GPU behind the protocol.

    ``pace_of`` turns a model's configuration into its pace on this GPU, or raises ValueError.
    """

    gpu: SimulatedGpu
    name: str
    pace_of: Callable[[Mapping[str, object]], Pace]

    def reply(self, connection: int, pid: int, line: bytes) -> Reply:
        """Carries out one line that process ``pid`` sent on the connection so numbered."""
        try:
            return self._carry_out(connection, pid, _parse(line))
        except OutOfMemoryError as error:
            return _refusal("OutOfMemory", error)
        except NotUsableError as error:
            return _refusal(error.reason, error)
        except (InvalidRequestError, NoSuchEngineError) as error:
            return _refusal("InvalidRequest", error)

    def _carry_out(self, connection: int, pid: int, request: Request) -> Reply:
        gpu = self.gpu
        match request.get("op"):
            case "step":
                self._must_be_attached(connection)
                step = gpu.step(connection, _whole(request, "running", MAX_RUNNING))
                answer: Answer = {
                    "step_seconds": step.seconds,
                    "stalled": step.stalled,
                    "kv_share": step.kv_share,
                }
                return Reply(answer)
            case "read":
                return Reply(reading(gpu, self.name))
            case "attach":
                return Reply({"delay_seconds": self._attach(connection, pid, request)})
            case "resize":
                self._must_be_attached(connection)
                gpu.resize(connection, _whole(request, "memory_bytes", MAX_BYTES))
            case "release":
                gpu.release(_pids(request))
            case "recover":
                gpu.recover_mps()
            case "inject":
                held = gpu.pids
                endings = gpu.inject(_injection(request))
                return Reply({"ended_pids": [held[number] for number in endings]}, endings)
            case op:
                raise InvalidRequestError(
                    f"op {op!r}: use read, attach, resize, step, release, recover or inject"
                )
        return Reply({})

    def _attach(self, connection: int, pid: int, request: Request) -> float:
        if self.gpu.is_attached(connection):
            raise InvalidRequestError("attached already: open another connection")
        memory_bytes = _whole(request, "memory_bytes", MAX_BYTES)
        model = request.get("model")
        if not isinstance(model, dict):
            raise InvalidRequestError(f"model {model!r}: use the content of its config.json")
        try:
            pace = self.pace_of(model)
        except ValueError as error:
            raise InvalidRequestError(f"model: {error}") from None
        return self.gpu.attach(connection, pid, pace, memory_bytes)

    def _must_be_attached(self, connection: int) -> None:
        if not self.gpu.is_attached(connection):
            raise InvalidRequestError("not attached, or released: attach first")


def reading(gpu: SimulatedGpu, name: str) -> Answer:
    """What the GPU's instruments say. Of a lost GPU power, energy and use are null."""
    lost = gpu.lost_at_seconds is not None
    return {
        "name": name,
        "memory_bytes": gpu.memory_bytes,
        "memory_used_bytes": None if lost else gpu.memory_used_bytes,
        "energy_millijoules": None if lost else int(gpu.meter.joules * 1000),
        "power_watts": None if lost else gpu.meter.watts,
        "utilization_percent": None if lost else round(100 * gpu.meter.utilization),
        "processes": None if lost else [list(pair) for pair in gpu.process_memory_bytes.items()],
        "health": {
            "state": "Lost" if lost else "Healthy",
            "reason": "GpuLost" if lost else "",
            "message": GPU_LOST_MESSAGE if lost else "",
            "since_seconds": gpu.lost_at_seconds,
        },
        "mps": {
            "faulted": gpu.mps.faulted,
            "message": MPS_FAULT_MESSAGE if gpu.mps.faulted else "",
            "faults": gpu.mps.count,
            "suspect_pids": list(gpu.mps.suspect_pids),
        },
    }


def _refusal(reason: str, error: Exception) -> Reply:
    return Reply({"reason": reason, "error": str(error)})


def _parse(line: bytes) -> Request:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"not a line of JSON: {error}") from None
    if not isinstance(request, dict):
        raise InvalidRequestError("not a JSON object: send {'op': ...}")
    return request


def _whole(request: Request, field: str, limit: int) -> int:
    value = request.get(field)
    if type(value) is not int or not 0 <= value <= limit:
        raise InvalidRequestError(f"{field} {value!r}: use a whole number from 0 to {limit}")
    return value


def _pids(request: Request) -> list[int]:
    pids = request.get("pids")
    if not isinstance(pids, list) or not all(type(pid) is int for pid in pids):
        raise InvalidRequestError(f"pids {pids!r}: use a list of process ids")
    return pids


def _injection(request: Request) -> Injection:
    try:
        return Injection.model_validate(request.get("fault"))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(["fault", *map(str, fault["loc"])])
        raise InvalidRequestError(f"{place}: {fault['msg']}") from None
