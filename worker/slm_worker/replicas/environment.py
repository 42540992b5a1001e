"""What an engine process inherits, and where it keeps what it compiles."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from slm_worker.engine.base import EngineCommand
from slm_worker.replicas.leftovers import MARKER_VARIABLE

_SECRET_PREFIX = "SLM_"  # noqa: S105 - a prefix of names
_SERVICE_LINK_PREFIX = "tcp://"
_MPS_LIMITS = frozenset({"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"})
"""Of another daemon, as a device plugin sets them: they would narrow the share that was planned."""


def engine_environment(
    agent: Mapping[str, str],
    command: EngineCommand,
    device: Mapping[str, str],
    *,
    marker: str,
    cache_dir: Path,
    tmpdir: Path,
) -> dict[str, str]:
    """What an engine process inherits: not the agent's own settings and token, none of the
    variables that Kubernetes sets for Services (VLLM_PORT=tcp://... would stop vLLM), and no limits
    under MPS but those that ``device`` sets."""
    inherited = {
        name: value
        for name, value in agent.items()
        if not name.startswith(_SECRET_PREFIX)
        and not value.startswith(_SERVICE_LINK_PREFIX)
        and name not in _MPS_LIMITS
    }
    own = {MARKER_VARIABLE: marker, "TMPDIR": str(tmpdir)}
    caches = compile_caches(cache_dir)
    program = shutil.which(command.argv[0], path=inherited.get("PATH"))
    if program is not None and lacks_bytecode(Path(program)):
        inherited.pop("PYTHONDONTWRITEBYTECODE", None)
        caches["PYTHONPYCACHEPREFIX"] = str(cache_dir / "python")
    return caches | command.default_env | inherited | command.env | dict(device) | own


def compile_caches(cache_dir: Path) -> dict[str, str]:
    """Where compiled kernels go: one place for all replicas and restarts, of which the first starts
    alone, so that only it compiles. By default some would go below TMPDIR, which ends
    with the replica. A variable that the user sets is left."""
    return {
        "VLLM_CACHE_ROOT": str(cache_dir / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache_dir / "inductor"),
        "TRITON_CACHE_DIR": str(cache_dir / "triton"),
        "CUDA_CACHE_PATH": str(cache_dir / "cuda"),
    }


def lacks_bytecode(program: Path) -> bool:
    """Whether vLLM, which ``program`` starts, was installed without compiling its Python files.

    uv, which vLLM's own image is made with, compiles none unless told, and the agent's user can
    write nothing beside them: each of a replica's two processes would compile thousands of files
    again. To import vLLM 0.23 took one core of a Xeon 28 s so, and 8 s with bytecode. Where there
    is some, Python must not look elsewhere.
    """
    packages = program.resolve().parent.parent.glob("lib/python3*/*-packages/vllm/__init__.py")
    return any(not (package.parent / "__pycache__").is_dir() for package in packages)
