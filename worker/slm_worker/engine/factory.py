"""Opens the engine that a pack's configuration names."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable

from slm_worker.engine.base import Engine
from slm_worker.engine.simulated import SimulatedEngine
from slm_worker.engine.vllm import VllmEngine, argument_name
from slm_worker.gpu.simulated.client import SOCKET_VARIABLE
from slm_worker.owned_arguments import OWNED_ENGINE_ARGUMENTS, owned_argument
from slm_worker.wire import PackConfig


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
        owned = owned_argument(argument_name(argument))
        if owned is not None:
            raise EngineUnusableError(
                "EngineArgumentOwned",
                f"engine.args: remove {argument.partition('=')[0]}: "
                f"{OWNED_ENGINE_ARGUMENTS[owned]}",
            )
