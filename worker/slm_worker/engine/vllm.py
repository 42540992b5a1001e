"""vLLM's OpenAI-compatible server as an engine process."""

from __future__ import annotations

import re
import signal
from typing import NamedTuple

from slm_worker.engine.base import EngineCommand, ReplicaSpec
from slm_worker.wire import ModelRef

SHUTDOWN_TIMEOUT_SECONDS = 60
"""How long a server finishes requests after SIGTERM; the router has drained it before."""
MAX_QUOTED_ERROR_CHARACTERS = 600

_SERVER_ENV = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # The router closes idle connections first: a server that closes one while a request is on its
    # way drops that request. The default is 5 seconds.
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "86400",
}
_CPU_ENV = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # The agent pins each process itself, and vLLM's own binding would put all on the same cores.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}


class _Cause(NamedTuple):
    pattern: re.Pattern[str]
    reason: str
    remedy: str


def _cause(pattern: str, reason: str, remedy: str) -> _Cause:
    return _Cause(re.compile(pattern, re.IGNORECASE), reason, remedy)


_CAUSES = (
    _cause(
        r"out of memory|OutOfMemoryError|larger than the available KV cache memory"
        r"|No available memory for the cache blocks|less than desired GPU memory utilization",
        "OutOfMemory",
        "plan fewer replicas or smaller batches, or lower --max-model-len in engine.args",
    ),
    _cause(
        r"unrecognized arguments|invalid choice|error: argument |expected one argument",
        "EngineArgumentInvalid",
        "correct engine.args; `vllm serve --help=all` lists what this version takes",
    ),
    _cause(
        r"address already in use|Errno 98",
        "PortTaken",
        "the next start takes another port",
    ),
    _cause(
        r"Can't load the configuration of|is not a local folder and is not a valid model"
        r"|Repository Not Found|RepositoryNotFoundError|does not appear to have a file named"
        r"|Repo id must|No such file or directory: .*(config\.json|safetensors)",
        "ModelNotFound",
        "check model.uri and model.revision, and that the pack can read or download it",
    ),
    _cause(
        r"Model architectures .* (are not supported|failed to be inspected)"
        r"|does not recognize this architecture|Unrecognized model in"
        r"|not a valid JSON file|ValidationError",
        "ModelConfigInvalid",
        "use a model and arguments that this version of vLLM supports",
    ),
    _cause(
        r"MPS client failed|mps server|CUDA_ERROR_MPS|error 80[5-9]",
        "MpsFault",
        "a fault in one MPS client ends all; the agent starts them again",
    ),
)
_ERROR_LINE = re.compile(r"error|exception|traceback|fatal|assert", re.IGNORECASE)


class VllmEngine:
    """Starts ``vllm serve`` for one model. ``executable`` is the path of the ``vllm`` program."""

    def __init__(
        self, model: ModelRef, args: tuple[str, ...], *, executable: str, on_cpu: bool
    ) -> None:
        self._model = model
        self._args = args
        self._executable = executable
        self._on_cpu = on_cpu

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
        env = dict(_SERVER_ENV)
        if scheme == "file":
            env["HF_HUB_OFFLINE"] = "1"
        if self._on_cpu:
            env |= _CPU_ENV
            owned += ["--distributed-executor-backend", "uni"]
            given = {argument_name(argument) for argument in self._args}
            if not given & {"--enforce-eager", "--no-enforce-eager"}:
                owned.append("--enforce-eager")
        # The agent asks for metrics twice a second, which would push errors out of the log's tail.
        owned.append("--disable-uvicorn-access-log")
        # Of an argument given twice vLLM takes the last, so the agent's own come last.
        return EngineCommand((self._executable, "serve", location, *self._args, *owned), env)

    def explain_exit(self, returncode: int, log_tail: str) -> tuple[str, str]:
        if returncode == -signal.SIGKILL:
            return "EngineKilled", (
                "vLLM was killed by the system: most often the Pod's memory limit; "
                "raise resources.limits.memory"
            )
        for cause in _CAUSES:
            if cause.pattern.search(log_tail):
                return cause.reason, f"{_last_error(log_tail, cause.pattern)}: {cause.remedy}"
        ending = (
            f"vLLM ended by signal {-returncode}"
            if returncode < 0
            else f"vLLM exited with {returncode}"
        )
        return "EngineExited", f"{ending}; last words: {_last_error(log_tail, _ERROR_LINE)}"


def argument_name(argument: str) -> str:
    """``--max_num_seqs=8`` -> ``--max-num-seqs``: how vLLM reads an argument's name."""
    return argument.partition("=")[0].replace("_", "-")


def _last_error(log_tail: str, pattern: re.Pattern[str]) -> str:
    lines = [line.strip() for line in log_tail.splitlines() if line.strip()]
    matching = [line for line in lines if pattern.search(line)] or lines[-3:]
    return " | ".join(matching[-2:])[-MAX_QUOTED_ERROR_CHARACTERS:] or "no output"
