"""Our libnvidia-ml.so.1 in place of the driver's: real pynvml code loads it, nothing is patched.

A process gets it by its environment, before it starts::

    library = build(cache)                                   # a folder; compiled once per content
    env = os.environ | environment(library, state=state_file)

``state`` is the file that a simulated GPU writes (``simulated_daemon --state-file``); ``script`` is
one of a test's own, whose values override the state's and which lets calls fail or hang. The keys
of both: ``tests/fixtures/nvml/nvml.c``. Figures read through it are simulated.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "fixtures" / "nvml" / "nvml.c"
LIBRARY_NAME = "libnvidia-ml.so.1"
SCRIPT_VARIABLE = "SLM_TEST_NVML"
STATE_VARIABLE = "SLM_TEST_NVML_STATE"


def build(directory: Path) -> Path:
    """A folder below ``directory`` that holds the library, compiled unless it is there already.

    Needs ``cc``; raises CalledProcessError with the compiler's complaints on stderr.
    """
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    folder = directory / f"nvml-standin-{digest}"
    target = folder / LIBRARY_NAME
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # Whoever builds at the same time replaces one whole library by another.
        fresh = folder / f"{LIBRARY_NAME}.{os.getpid()}"
        flags = ["-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
        subprocess.run(["cc", *flags, "-o", str(fresh), str(SOURCE)], check=True)
        fresh.replace(target)
    return folder


def environment(
    library: Path, *, script: Path | None = None, state: Path | None = None
) -> dict[str, str]:
    """Variables that make a process load the library of ``library`` (from :func:`build`)."""
    own = os.environ.get("LD_LIBRARY_PATH")
    variables = {"LD_LIBRARY_PATH": f"{library}:{own}" if own else str(library)}
    if script is not None:
        variables[SCRIPT_VARIABLE] = str(script)
    if state is not None:
        variables[STATE_VARIABLE] = str(state)
    return variables


def write_lines(file: Path, lines: Iterable[tuple[str, object]]) -> None:
    """Replaces the file at once by lines "key value"; a key may come several times."""
    fresh = file.with_name(f"{file.name}.new")
    fresh.write_text("".join(f"{key} {value}\n" for key, value in lines))
    fresh.replace(file)
