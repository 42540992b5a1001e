"""Opens the engine that a pack's configuration names."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable

from slm_worker.engine.base import Engine
from slm_worker.engine.simulated import SimulatedEngine
from slm_worker.engine.vllm import VllmEngine, argument_name
from slm_worker.gpu.simulated.client import SOCKET_VARIABLE
from slm_worker.wire import OWNED_ENGINE_ARGUMENTS, PackConfig

_ADDRESS = "the agent chooses where engines listen"
_MEMORY = "the agent divides the memory"
_PLANNED = "the operator plans it"
_PLAIN_HTTP = "the pack's router speaks plain HTTP to engines"
_INSTEAD = {
    "--host": _ADDRESS,
    "--port": _ADDRESS,
    "--uds": _ADDRESS,
    "--grpc": _PLAIN_HTTP,
    "--headless": _PLAIN_HTTP,
    "--tokens-only": _PLAIN_HTTP,
    "--ssl-certfile": _PLAIN_HTTP,
    "--ssl-keyfile": _PLAIN_HTTP,
    "--root-path": "the router serves engines at the root",
    "--api-key": "protect the service in front of the router",
    "--disable-log-stats": "without its metrics an engine cannot be measured",
    "--shutdown-timeout": "the agent drains engines before it stops them",
    "--config": "write its content as engine.args",
    "--model": "set model.uri",
    "--served-model-name": "set model.name",
    "--revision": "set model.revision",
    "--hf-token": "give the token as a Secret in the environment variable HF_TOKEN",
    "--enable-sleep-mode": "the plan's standby decides it",
    "--max-num-seqs": _PLANNED,
    "--max-num-active-seqs": _PLANNED,
    "--kv-cache-memory-bytes": _MEMORY,
    "--gpu-memory-utilization": _MEMORY,
    "--device-memory-utilization": _MEMORY,
    "--num-gpu-blocks-override": _MEMORY,
}
_ONE_GPU = "a pack is one GPU, and its replicas take the place of parallel workers"


class EngineUnusableError(Exception):
    """``reason``: EngineNotFound or EngineArgumentOwned; ``message`` has cause and remedy."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def open_engine(config: PackConfig) -> Engine:
    """Raises EngineUnusableError."""
    refuse_owned_arguments(config.engine.args)
    if config.engine.kind == "Simulated":
        return SimulatedEngine(
            config.model, config.engine.args, gpu_socket=os.environ.get(SOCKET_VARIABLE)
        )
    executable = shutil.which("vllm")
    if executable is None:
        raise EngineUnusableError(
            "EngineNotFound",
            "engine.kind vLLM: no program named vllm is on PATH; "
            "use a worker image that has vLLM installed, or engine.kind Simulated",
        )
    return VllmEngine(
        config.model,
        config.engine.args,
        executable=executable,
        on_cpu=config.gpu.kind == "CPU",
    )


def refuse_owned_arguments(args: Iterable[str]) -> None:
    """Raises EngineUnusableError (EngineArgumentOwned) for the first that the agent owns."""
    for argument in args:
        name = argument_name(argument)
        if name in OWNED_ENGINE_ARGUMENTS:
            raise EngineUnusableError(
                "EngineArgumentOwned",
                f"engine.args: remove {argument.partition('=')[0]}: {_INSTEAD.get(name, _ONE_GPU)}",
            )
