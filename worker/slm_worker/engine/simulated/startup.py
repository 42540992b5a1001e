"""What the simulated engine does before it serves: arguments, model, memory."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, get_args

from slm_worker.engine.simulated.errors import (
    GPU_LOST,
    MPS_NOT_READY,
    DeviceFaultError,
    EngineError,
)
from slm_worker.engine.simulated.metrics import MetricsNames
from slm_worker.engine.simulated.sleep import Memory
from slm_worker.gpu.base import DeviceError
from slm_worker.gpu.simulated.client import SOCKET_VARIABLE, DaemonConnection, DeviceRefusedError
from slm_worker.gpu.simulated.pace import CHUNKED_PREFILL, RUNTIME_BYTES
from slm_worker.model_files import read_config_document, read_footprint
from slm_worker.planning.footprint import ModelError, ModelFootprint, parse_config
from slm_worker.wire import MAX_NUM_SEQS, EngineConfig, ModelRef

DEFAULT_UTILIZATION = 0.9
DEFAULT_START_SECONDS = 1.0


@dataclass(frozen=True)
class Arguments:
    """The command line; names as vLLM has them, but for ``start_seconds`` and ``metrics_names``."""

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
    enable_chunked_prefill: bool
    enable_sleep_mode: bool
    metrics_names: MetricsNames


@dataclass(frozen=True)
class Model:
    """What is served. ``config``: what its config.json says."""

    footprint: ModelFootprint
    config: Mapping[str, object]


@dataclass(frozen=True)
class Attached:
    """An engine's hold on its simulated GPU, which ends with ``gpu``."""

    gpu: DaemonConnection
    memory: Memory
    kv_tokens: int
    """How many tokens the KV cache has room for."""
    delay_seconds: float
    """How much longer than usual its start takes."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise EngineError(
            "EngineArgumentInvalid",
            f"{message}: correct engine.args, the simulated engine takes only "
            "--max-model-len, --enable-chunked-prefill, --start-seconds and --metrics-names there",
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
    parser.add_argument("--enable-chunked-prefill", action="store_true")
    parser.add_argument("--enable-sleep-mode", action="store_true")
    parser.add_argument("--metrics-names", choices=get_args(MetricsNames), default="today")
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


def resolve_model(arguments: Arguments) -> Model:
    """Reads the model's configuration and size; blocks. Raises EngineError."""
    try:
        model = ModelRef(
            uri=arguments.model, name=arguments.served_model_name, revision=arguments.revision
        )
        config = read_config_document(model)
        footprint = None if config is None else _footprint(model, config, arguments.max_model_len)
    except ModelError as error:
        reason = error.reason if error.reason.startswith("Model") else "EngineArgumentInvalid"
        raise EngineError(reason, error.message) from None
    except ValueError:  # pydantic's, for a URI of another scheme
        raise EngineError(
            "ModelNotFound", f"--model {arguments.model!r}: use hf://... or file:///path"
        ) from None
    if footprint is None or config is None:
        raise EngineError(
            "ModelNotFound",
            f"--model {arguments.model!r}: the simulated engine downloads nothing and knows by "
            "name only hf://facebook/opt-1.3b; use that, or file:///path with a config.json",
        )
    return Model(footprint, config)


def _footprint(
    model: ModelRef, config: Mapping[str, object], max_model_len: str | None
) -> ModelFootprint | None:
    args = () if max_model_len is None else ("--max-model-len", max_model_len)
    found = read_footprint(model, EngineConfig(kind="Simulated", args=args))
    shape = parse_config(config, "config.json")
    if found is None or shape is None:
        return None
    if found.max_model_len > shape.longest_sequence:
        raise EngineError(
            "EngineArgumentInvalid",
            f"--max-model-len {max_model_len} exceeds the {shape.longest_sequence} tokens that "
            "the model is made for: lower it",
        )
    return found


async def attach(arguments: Arguments, model: Model, socket: str | None) -> Attached:
    """Takes the engine's memory on the simulated GPU, whose ``socket`` SOCKET_VARIABLE names.

    Raises EngineError, and DeviceFaultError where the device takes no engine now.
    """
    if socket is None:
        raise EngineError(
            "DeviceUnavailable",
            f"the environment has no {SOCKET_VARIABLE}: start slm_worker.gpu.simulated.daemon and "
            "name its socket there",
        )
    footprint = model.footprint
    try:
        connection = await DaemonConnection.open(Path(socket))
        answer = await connection.request("read")
        total = int(answer["memory_bytes"])
        free = total - int(answer["memory_used_bytes"] or 0)
        kv_bytes = _kv_bytes(arguments, footprint, total, free)
        memory = Memory(footprint.weights_bytes, kv_bytes, RUNTIME_BYTES)
        sizes = _sizes(model.config) | {CHUNKED_PREFILL: arguments.enable_chunked_prefill}
        answer = await connection.request("attach", memory_bytes=memory.awake_bytes, model=sizes)
    except DeviceRefusedError as error:
        raise _refused(error) from None
    except DeviceError as error:
        raise EngineError("DeviceUnavailable", str(error)) from None
    kv_tokens = kv_bytes // footprint.kv_bytes_per_token
    return Attached(connection, memory, kv_tokens, float(answer["delay_seconds"]))


def _sizes(config: Mapping[str, object]) -> dict[str, object]:
    """What of a configuration decides the pace: numbers and names, also of a language model within
    a larger one; not its lists (labels, scaling factors), which may be long."""
    sizes = {key: value for key, value in config.items() if not isinstance(value, list | dict)}
    text = config.get("text_config")
    return sizes | {"text_config": _sizes(text)} if isinstance(text, dict) else sizes


def _refused(error: DeviceRefusedError) -> EngineError | DeviceFaultError:
    match error.reason:
        case "MpsNotReady":
            return DeviceFaultError(MPS_NOT_READY)
        case "GpuLost":
            return DeviceFaultError(GPU_LOST)
        case "InvalidRequest":
            return EngineError("ModelConfigInvalid", str(error))
        case _:
            return EngineError("OutOfMemory", f"{error}: plan fewer replicas or a smaller KV cache")


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
