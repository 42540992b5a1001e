"""The simulated engine as the agent starts it."""

from __future__ import annotations

import signal
import sys

from slm_worker.engine.base import EngineCommand, ReplicaSpec
from slm_worker.engine.causes import find_cause
from slm_worker.engine.simulated.errors import EXIT_TOLD_TWICE, find_error
from slm_worker.gpu.simulated.client import SOCKET_VARIABLE
from slm_worker.wire import ModelRef


class SimulatedEngine:
    """``args`` are the user's; see ``startup`` for what the engine takes.

    ``gpu_socket`` names the simulated GPU where the pack's device does not: a simulated GPU that is
    read through NVML.
    """

    can_sleep = True

    def __init__(
        self, model: ModelRef, args: tuple[str, ...], *, gpu_socket: str | None = None
    ) -> None:
        self._model = model
        self._args = args
        self._env = {} if gpu_socket is None else {SOCKET_VARIABLE: gpu_socket}

    def command(self, spec: ReplicaSpec) -> EngineCommand:
        """The device's ``engine_env`` must be added: it names the simulated GPU."""
        argv = [sys.executable, "-m", "slm_worker.engine.simulated.server", *self._args]
        argv += ["--host", spec.host, "--port", str(spec.port)]
        argv += ["--model", self._model.uri, "--served-model-name", self._model.name]
        argv += ["--max-num-seqs", str(spec.max_num_seqs)]
        if spec.kv_cache_bytes is not None:
            argv += ["--kv-cache-memory-bytes", str(spec.kv_cache_bytes)]
        if spec.gpu_memory_utilization is not None:
            argv += ["--gpu-memory-utilization", f"{spec.gpu_memory_utilization:.4f}"]
        if spec.sleep_mode:
            argv.append("--enable-sleep-mode")
        if self._model.revision is not None:
            argv += ["--revision", self._model.revision]
        return EngineCommand(tuple(argv), self._env)

    def explain_exit(
        self, returncode: int, log_tail: str, *, was_ready: bool = False
    ) -> tuple[str, str]:
        error = find_error(log_tail)
        if error is not None:
            return error.reason, error.message
        if returncode == -signal.SIGKILL:
            return "EngineKilled", (
                "the simulated engine was killed: if not by the agent, then most often by the "
                "Pod's memory limit; raise resources.limits.memory"
            )
        cause = find_cause(log_tail, was_ready=was_ready)
        if cause is not None:
            return cause
        if returncode in (0, EXIT_TOLD_TWICE, -signal.SIGTERM):
            return "EngineExited", "the simulated engine was told to stop by SIGTERM"
        ending = f"ended by signal {-returncode}" if returncode < 0 else f"exited with {returncode}"
        return "EngineExited", (
            f"the simulated engine {ending} and named no cause: its log has more"
        )
