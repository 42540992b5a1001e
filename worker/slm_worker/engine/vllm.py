"""vLLM's OpenAI-compatible server as an engine process."""

from __future__ import annotations

import signal

from slm_worker.engine.base import EngineCommand, ReplicaSpec
from slm_worker.engine.causes import find_cause, last_words
from slm_worker.wire import ModelRef

SHUTDOWN_TIMEOUT_SECONDS = 60
"""How long a server finishes requests after SIGTERM; the router has drained it before."""

_SERVER_ENV = {
    # The router closes idle connections first: a server that closes one while a request is on its
    # way drops that request. The default is 5 seconds.
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "86400",
}
_DEFAULT_ENV = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
# Without it the server has no /sleep and /wake_up. It also opens paths that nobody outside the pack
# may reach: engines listen on loopback, and the router passes on only the paths that it knows.
_SLEEP_ENV = {"VLLM_SERVER_DEV_MODE": "1"}
# The agent pins each process itself, and vLLM's own binding would put all on the same cores.
_CPU_ENV = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
_CPU_DEFAULT_ENV = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # Threads spin while they wait for each other. How many of them would find a core is not known
    # here: a quota of the container bounds their time, not the cores that can be seen.
    "OMP_NUM_THREADS": "1",
}


class VllmEngine:
    """Starts ``vllm serve`` for one model. ``executable`` is the path of the ``vllm`` program."""

    def __init__(
        self, model: ModelRef, args: tuple[str, ...], *, executable: str, on_cpu: bool
    ) -> None:
        self._model = model
        self._args = args
        self._executable = executable
        self._on_cpu = on_cpu

    @property
    def can_sleep(self) -> bool:
        """vLLM refuses sleep mode at the start on a CPU."""
        return not self._on_cpu

    def command(self, spec: ReplicaSpec) -> EngineCommand:
        scheme, _, location = self._model.uri.partition("://")
        owned = [
            "--host",
            spec.host,
            "--port",
            str(spec.port),
            "--served-model-name",
            self._model.name,
            "--max-num-seqs",
            str(spec.max_num_seqs),
            "--shutdown-timeout",
            str(SHUTDOWN_TIMEOUT_SECONDS),
        ]
        if spec.kv_cache_bytes is not None:
            owned += ["--kv-cache-memory-bytes", str(spec.kv_cache_bytes)]
        if spec.gpu_memory_utilization is not None and not self._on_cpu:
            owned += ["--gpu-memory-utilization", f"{spec.gpu_memory_utilization:.4f}"]
        if self._model.revision is not None:
            owned += ["--revision", self._model.revision]
        env, default_env = dict(_SERVER_ENV), dict(_DEFAULT_ENV)
        if scheme == "file":
            default_env["HF_HUB_OFFLINE"] = "1"
        if spec.sleep_mode:
            env |= _SLEEP_ENV
            owned.append("--enable-sleep-mode")
        if self._on_cpu:
            env |= _CPU_ENV
            default_env |= _CPU_DEFAULT_ENV
            owned += ["--distributed-executor-backend", "uni"]
            given = {argument_name(argument) for argument in self._args}
            if not given & {"--enforce-eager", "--no-enforce-eager"}:
                owned.append("--enforce-eager")
        # The agent asks for metrics twice a second, which would push errors out of the log's tail.
        owned.append("--disable-uvicorn-access-log")
        # Of an argument given twice vLLM takes the last, so the agent's own come last.
        argv = (self._executable, "serve", location, *self._args, *owned)
        return EngineCommand(argv, env, default_env)

    def explain_exit(
        self, returncode: int, log_tail: str, *, was_ready: bool = False
    ) -> tuple[str, str]:
        if returncode == -signal.SIGKILL:
            return "EngineKilled", (
                "vLLM was killed by the system: most often the Pod's memory limit; "
                "raise resources.limits.memory"
            )
        cause = find_cause(log_tail, was_ready=was_ready)
        if cause is not None:
            return cause
        ending = (
            f"vLLM ended by signal {-returncode}"
            if returncode < 0
            else f"vLLM exited with {returncode}"
        )
        return "EngineExited", f"{ending}; last words: {last_words(log_tail)}"


def argument_name(argument: str) -> str:
    """``--max_num_seqs=8`` -> ``--max-num-seqs``, ``-cc.mode=3`` -> ``-cc``: how vLLM reads an
    argument's name."""
    return argument.replace(".", "=").partition("=")[0].replace("_", "-")
