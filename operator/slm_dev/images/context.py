"""What the Dockerfile may use: the files that .dockerignore lets through."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from slm_dev.vllm_cpu.errors import SetupError

CHECKOUT = Path(__file__).parents[3]

WHEELS = "wheels"
"""The folder of wheels in the context, which no checkout holds."""
_CACHES = "__pycache__"


def let_through(dockerignore: str) -> list[str]:
    """The paths that are exceptions to a .dockerignore which leaves out all else."""
    return [line[1:] for line in dockerignore.splitlines() if line.startswith("!")]


def context_files(checkout: Path = CHECKOUT) -> list[Path]:
    """The build's inputs in ``checkout``, sorted. Raises SetupError when one is not there."""
    found: set[Path] = {checkout / "Dockerfile"}
    for name in let_through((checkout / ".dockerignore").read_text()):
        path = checkout / name
        if path.is_file():
            found.add(path)
        elif path.is_dir():
            found.update(file for file in path.rglob("*") if file.is_file())
        elif name != WHEELS:
            raise SetupError(f".dockerignore names {name}, which {checkout} has not: correct it")
    return sorted(file for file in found if _CACHES not in file.parts)


def as_parts(files: Iterable[Path], checkout: Path = CHECKOUT) -> Iterable[bytes]:
    """The files' names and contents, for a key that changes with either."""
    for file in files:
        yield str(file.relative_to(checkout)).encode()
        yield file.read_bytes()


def stage(target: Path, wheels: Path, checkout: Path = CHECKOUT) -> None:
    """Make the build context in the new folder ``target``."""
    for file in context_files(checkout):
        place = target / file.relative_to(checkout)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
    shutil.copytree(wheels, target / WHEELS)
