"""What the simulated engine does before it serves: arguments, model, memory."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from slm_worker.engine.simulated.errors import EngineError
from slm_worker.gpu.base import DeviceError
from slm_worker.gpu.simulated.client import SOCKET_VARIABLE, DaemonConnection, DeviceRefusedError
from slm_worker.model_files import read_footprint
from slm_worker.planning.footprint import ModelError, ModelFootprint
from slm_worker.wire import MAX_NUM_SEQS, EngineConfig, ModelRef

RUNTIME_BYTES = 2**30
"""Context, graphs and activations of an engine; packing reserves more than this."""
DEFAULT_UTILIZATION = 0.9
DEFAULT_START_SECONDS = 1.0


@dataclass(frozen=True)
class Arguments:
    """The command line; names as vLLM has them, but for ``start_seconds``."""

    host: str
    port: int
    model: str
    revision: str | None
    served_model_name: str
    max_num_seqs: int
    kv_cache_memory_bytes: int | None
    gpu_memory_utilization: float
    max_model_len: str | None
    start_seconds: float
    """Stands for the loading of the weights; a real vLLM takes half a minute or more."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise EngineError(
            "EngineArgumentInvalid",
            f"{message}: correct engine.args, the simulated engine takes only "
            "--max-model-len and --start-seconds there",
        )


def parse_arguments(argv: list[str]) -> Arguments:
    """Raises EngineError (EngineArgumentInvalid)."""
    parser = _Parser(prog="simulated_server", allow_abbrev=False)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True, help="hf://facebook/opt-1.3b or file:///DIR")
    parser.add_argument("--revision")
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--max-num-seqs", type=int, required=True)
    parser.add_argument("--kv-cache-memory-bytes", type=int)
    parser.add_argument("--gpu-memory-utilization", type=float, default=DEFAULT_UTILIZATION)
    parser.add_argument("--max-model-len")
    parser.add_argument("--start-seconds", type=float, default=DEFAULT_START_SECONDS)
    arguments = Arguments(**vars(parser.parse_args(argv)))
    for name, value, valid, remedy in (
        ("port", arguments.port, 0 <= arguments.port < 2**16, "0 to 65535"),
        (
            "max-num-seqs",
            arguments.max_num_seqs,
            1 <= arguments.max_num_seqs <= MAX_NUM_SEQS,
            f"1 to {MAX_NUM_SEQS}",
        ),
        (
            "gpu-memory-utilization",
            arguments.gpu_memory_utilization,
            0 < arguments.gpu_memory_utilization <= 1,
            "more than 0, at most 1",
        ),
        (
            "kv-cache-memory-bytes",
            arguments.kv_cache_memory_bytes,
            arguments.kv_cache_memory_bytes is None or arguments.kv_cache_memory_bytes > 0,
            "more than 0",
        ),
        (
            "start-seconds",
            arguments.start_seconds,
            0 <= arguments.start_seconds < 3600,
            "0 to 3599",
        ),
    ):
        if not valid:
            parser.error(f"argument --{name}: {value} is out of range ({remedy})")
    return arguments


def resolve_model(arguments: Arguments) -> ModelFootprint:
    """Reads the model's size; blocks. Raises EngineError."""
    try:
        model = ModelRef(
            uri=arguments.model, name=arguments.served_model_name, revision=arguments.revision
        )
        footprint = _footprint(model, arguments.max_model_len)
    except ModelError as error:
        reason = error.reason if error.reason.startswith("Model") else "EngineArgumentInvalid"
        raise EngineError(reason, error.message) from None
    except ValueError:  # pydantic's, for a URI of another scheme
        raise EngineError(
            "ModelNotFound", f"--model {arguments.model!r}: use hf://... or file:///path"
        ) from None
    if footprint is None:
        raise EngineError(
            "ModelNotFound",
            f"--model {arguments.model!r}: the simulated engine downloads nothing and knows by "
            "name only hf://facebook/opt-1.3b; use that, or file:///path with a config.json",
        )
    return footprint


def _footprint(model: ModelRef, max_model_len: str | None) -> ModelFootprint | None:
    own = read_footprint(model, EngineConfig(kind="Simulated"))
    if own is None or max_model_len is None:
        return own
    args = ("--max-model-len", max_model_len)
    limited = read_footprint(model, EngineConfig(kind="Simulated", args=args))
    if limited is not None and limited.max_model_len > own.max_model_len:
        raise EngineError(
            "EngineArgumentInvalid",
            f"--max-model-len {max_model_len} exceeds the {own.max_model_len} tokens that the "
            "model is made for: lower it",
        )
    return limited


async def attach(
    arguments: Arguments, footprint: ModelFootprint, socket: str | None
) -> tuple[DaemonConnection, int]:
    """Takes the engine's memory on the simulated GPU, whose ``socket`` SOCKET_VARIABLE names.

    Returns the connection that holds it, and how many tokens its KV cache has room for. Raises
    EngineError.
    """
    if socket is None:
        raise EngineError(
            "DeviceUnavailable",
            f"the environment has no {SOCKET_VARIABLE}: start slm_worker.gpu.simulated.daemon and "
            "name its socket there",
        )
    try:
        connection = await DaemonConnection.open(Path(socket))
        answer = await connection.request("read")
        total, used = int(answer["memory_bytes"]), int(answer["memory_used_bytes"])
        kv_bytes = _kv_bytes(arguments, footprint, total, total - used)
        await connection.request(
            "attach", memory_bytes=footprint.weights_bytes + RUNTIME_BYTES + kv_bytes
        )
    except DeviceRefusedError as error:
        raise EngineError(
            "OutOfMemory", f"{error}: plan fewer replicas or a smaller KV cache"
        ) from None
    except DeviceError as error:
        raise EngineError("DeviceUnavailable", str(error)) from None
    return connection, kv_bytes // footprint.kv_bytes_per_token


def _kv_bytes(
    arguments: Arguments, footprint: ModelFootprint, total_bytes: int, free_bytes: int
) -> int:
    """The KV cache's size, by vLLM's two checks at its start. Raises EngineError (OutOfMemory)."""
    wanted_bytes = int(arguments.gpu_memory_utilization * total_bytes)
    if wanted_bytes > free_bytes:
        raise EngineError(
            "OutOfMemory",
            f"--gpu-memory-utilization {arguments.gpu_memory_utilization} asks for "
            f"{wanted_bytes:,} bytes and {free_bytes:,} of {total_bytes:,} are free: lower it, or "
            "plan fewer replicas",
        )
    kv_bytes = arguments.kv_cache_memory_bytes
    if kv_bytes is None:
        kv_bytes = wanted_bytes - footprint.weights_bytes - RUNTIME_BYTES
    needed_bytes = footprint.max_model_len * footprint.kv_bytes_per_token
    if kv_bytes < needed_bytes:
        raise EngineError(
            "OutOfMemory",
            f"one sequence of {footprint.max_model_len} tokens needs {needed_bytes:,} bytes of KV "
            f"cache and {max(0, kv_bytes):,} are left: lower --max-model-len, plan fewer replicas, "
            "or raise the memory's share",
        )
    return kv_bytes
