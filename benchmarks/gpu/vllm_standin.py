"""Plays ``vllm serve`` by the simulated engine: the agent's real vLLM command line, no GPU.

What concerns serving is passed on; what only a real vLLM understands is taken and left out.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

PASSED_ON = frozenset(
    {
        "--host",
        "--port",
        "--served-model-name",
        "--max-num-seqs",
        "--kv-cache-memory-bytes",
        "--gpu-memory-utilization",
        "--max-model-len",
    }
)
FLAGS_PASSED_ON = frozenset({"--enable-sleep-mode"})
LEFT_OUT = frozenset({"--load-format", "--shutdown-timeout", "--dtype"})
FLAGS_LEFT_OUT = frozenset({"--disable-uvicorn-access-log"})
PROGRAM = "slm_worker.engine.simulated.server"


def translated(argv: Sequence[str], start_seconds: float) -> list[str]:
    """``serve MODEL ...`` in the simulated engine's words. Raises ValueError for what is in no
    list, so that a new argument of the agent is noticed."""
    if len(argv) < 2 or argv[0] != "serve":
        raise ValueError(f"{list(argv)}: only `vllm serve MODEL ...` is played here")
    arguments = ["--model", f"file://{argv[1]}", "--start-seconds", str(start_seconds)]
    arguments.append("--enable-chunked-prefill")
    words = iter(word for given in argv[2:] for word in given.split("=", 1))
    for word in words:
        if word in PASSED_ON:
            arguments += [word, next(words)]
        elif word in FLAGS_PASSED_ON:
            arguments.append(word)
        elif word in LEFT_OUT:
            next(words)
        elif word not in FLAGS_LEFT_OUT:
            raise ValueError(f"argument {word}: say in {__name__} whether it is passed on")
    return arguments


def write_program(folder: Path, environment: dict[str, str], start_seconds: float) -> Path:
    """An executable named vllm in ``folder``, which sets what agents keep from engines."""
    program = folder / "vllm"
    program.write_text(
        f"#!{sys.executable}\n"
        "import os, sys\n"
        f"os.environ.update({environment!r})\n"
        f"sys.path[:0] = {sys.path!r}\n"
        f"from {__name__} import run\n"
        f"run(sys.argv[1:], {start_seconds!r})\n"
    )
    program.chmod(0o755)
    return program


def run(argv: Sequence[str], start_seconds: float) -> None:
    """Becomes the engine."""
    python_path = os.pathsep.join(path for path in sys.path if path)
    os.environ["PYTHONPATH"] = python_path
    os.execv(  # noqa: S606 - the same interpreter, with arguments of its own
        sys.executable, [sys.executable, "-m", PROGRAM, *translated(argv, start_seconds)]
    )
