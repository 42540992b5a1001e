"""A base that stands for vLLM's own image: Debian's Python, and the cached vLLM for the CPU."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from slm_dev.images import layers, oci
from slm_dev.images.base import CREATED, EPOCH_SECONDS, PATH, PYTHON, Base
from slm_dev.images.ingredients import BASE_PYTHON, ensure
from slm_dev.images.layers import EXECUTABLE_MODE, FILE_MODE, Entry, write_layer
from slm_dev.images.oci import Layout, write_layout
from slm_dev.vllm_cpu import install
from slm_dev.vllm_cpu.cache import Progress, cache_root, content_key, require_free_space
from slm_dev.vllm_cpu.commands import Run, run_command
from slm_dev.vllm_cpu.errors import SetupError

_LIBRARIES = ("libgomp1", "libnuma1", "libstdc++6")
# vLLM asks lscpu for the cores, in a shell.
_PROGRAMS = ("dash", "util-linux")
SYSTEM = Base("localhost/slm-vllm-system", (*PYTHON, *_LIBRARIES, *_PROGRAMS))
"""What lies below vLLM: what its packages need and do not bring."""

VLLM_BASE = "localhost/slm-vllm-cpu"

HOME = "opt/vllm"
SITE_PACKAGES = f"{HOME}/lib/python{BASE_PYTHON}/site-packages"

NEEDED_BYTES = 6_000_000_000
"""Two gigabytes of bytecode and files, their layer, that compressed, and an archive with it."""

# pip is of the environment and not of vLLM, torch's headers are for a compiler, and the lists of
# installed files name programs that are not here.
_LEFT_OUT = re.compile(
    r"pip/|pip-[^/]*\.dist-info/|torch/include/|.*\.dist-info/RECORD|(?:.*/)?__pycache__/"
)
# The second is in the syntax of a newer Python.
_NOT_COMPILED = r"site-packages/pip/|/torch/testing/_internal/py312"

_PROGRAM = f"""#!/{HOME}/bin/python3
import sys

from vllm.entrypoints.cli.main import main

# Its engine is a process that imports this file, too.
if __name__ == "__main__":
    sys.exit(main())
"""


def ensure_vllm_base(system: Layout, progress: Progress, run: Run = run_command) -> Layout:
    """Return the base image, made first when absent. Raises SetupError."""
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if running != BASE_PYTHON:
        raise SetupError(
            f"vLLM's packages in an image are for its Python, {BASE_PYTHON}, and this is "
            f"{running}: run it with Python {BASE_PYTHON}"
        )
    environment = install.environment_folder()
    code = [Path(str(path)).read_bytes() for path in (__file__, layers.__file__, oci.__file__)]
    key = content_key(*code, system.digest.encode(), environment.name.encode())

    def make(scratch: Path) -> None:
        require_free_space(cache_root(), NEEDED_BYTES)
        python = install.ensure_environment(progress, run).python
        packages = environment / "lib" / f"python{BASE_PYTHON}" / "site-packages"
        progress("compiling vLLM's Python packages")
        compiled = scratch / "compiled"
        compile_packages(python, packages, compiled, run)
        progress("writing the base with vLLM (2 GB)")
        layer = scratch / "vllm.tar"
        write_layer(environment_entries(packages, compiled), layer, EPOCH_SECONDS)
        shutil.rmtree(compiled)
        below = [Path(shutil.copy(each, scratch / f"{each.name}.tar")) for each in system.layers()]
        configuration = {"Env": [f"PATH=/{HOME}/bin:{PATH}"]}
        write_layout(scratch, VLLM_BASE, [*below, layer], configuration, CREATED, compress=True)

    return Layout(ensure(f"images-vllm-{key}", make, progress))


def compile_packages(python: Path, packages: Path, target: Path, run: Run = run_command) -> None:
    """Compile the Python files below ``packages`` into ``target``, below their absolute paths.

    A container has no place to keep bytecode, and without it each start spends ten seconds more.
    """
    run(
        [
            *("env", "PYTHONHASHSEED=0", f"PYTHONPYCACHEPREFIX={target}", str(python)),
            *("-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"),
            *("-x", _NOT_COMPILED, "-s", str(packages)),
            *("-p", f"/{SITE_PACKAGES}", str(packages)),
        ]
    )


def environment_entries(packages: Path, compiled: Path) -> Iterable[Entry]:
    """The files of a virtual environment at `HOME` with ``packages`` and their bytecode."""
    yield Entry(f"{HOME}/pyvenv.cfg", FILE_MODE, b"home = /usr/bin\n")
    yield Entry(f"{HOME}/bin/python3", 0o777, link="/usr/bin/python3")
    yield Entry(f"{HOME}/bin/vllm", EXECUTABLE_MODE, _PROGRAM.encode())
    for file in packages.rglob("*"):
        relative = file.relative_to(packages)
        if file.is_file() and not _LEFT_OUT.match(str(relative)):
            mode = EXECUTABLE_MODE if file.stat().st_mode & 0o100 else FILE_MODE
            yield Entry(f"{SITE_PACKAGES}/{relative}", mode, source=file)
    root = compiled / packages.relative_to("/")
    for file in root.rglob("*.pyc"):
        place = file.relative_to(root).parent / "__pycache__" / file.name
        yield Entry(f"{SITE_PACKAGES}/{place}", FILE_MODE, source=file)
