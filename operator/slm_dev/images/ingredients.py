"""What the images are made from, kept in the cache: bases of Debian packages, and Python wheels."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from slm_dev import cache_upkeep
from slm_dev.images import base, debian, layers, oci
from slm_dev.images.base import Base
from slm_dev.images.context import CHECKOUT
from slm_dev.images.oci import Layout
from slm_dev.vllm_cpu.cache import Progress, cache_root, content_key, exclusive
from slm_dev.vllm_cpu.commands import Run, run_command
from slm_dev.vllm_cpu.lock import PLATFORMS

BASE_PYTHON = "3.11"
"""Of the bases: Debian 12's."""

REQUIREMENTS = (
    "operator/build-requirements.txt",
    "operator/requirements.txt",
    "worker/requirements.txt",
)


def ensure_bases(
    bases: Sequence[Base], progress: Progress, run: Run = run_command
) -> dict[str, Layout]:
    """Map each base's name to its image, made first when absent. Raises SetupError."""
    code = [Path(str(module.__file__)).read_bytes() for module in (base, debian, layers, oci)]
    key = content_key(*code, *(repr(each).encode() for each in bases))

    def make(scratch: Path) -> None:
        names = {name for each in bases for name in each.packages}
        progress(f"downloading Debian packages ({', '.join(sorted(names))})")
        packages_folder = scratch / "packages"
        packages_folder.mkdir()
        debian.download(names, packages_folder, run)
        packages = debian.read_packages(packages_folder, run)
        for each in bases:
            base.write_base(each, packages, scratch / _short(each))
        shutil.rmtree(packages_folder)

    folder = ensure(f"images-debian-{key}", make, progress)
    return {each.name: Layout(folder / _short(each)) for each in bases}


def ensure_wheels(progress: Progress, run: Run = run_command) -> Path:
    """Return the folder of wheels that the images install. Raises SetupError."""
    files = [CHECKOUT / name for name in REQUIREMENTS]
    key = content_key(*(file.read_bytes() for file in files), repr(PLATFORMS).encode())
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]

    def make(scratch: Path) -> None:
        progress("downloading Python packages for the images")
        for file in files:
            run(
                [
                    *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
                    *("--disable-pip-version-check", "--require-hashes"),
                    *("--only-binary", ":all:", "--implementation", "cp"),
                    *("--python-version", BASE_PYTHON, *platforms),
                    *("--dest", str(scratch), "--requirement", str(file)),
                ]
            )

    return ensure(f"images-wheels-{key}", make, progress)


def ensure(name: str, make: Callable[[Path], None], progress: Progress) -> Path:
    """Return the cache folder ``name``, filled by ``make`` when it is not there yet."""
    folder = cache_root() / name
    if not folder.exists():
        with exclusive(folder, progress):
            if not folder.exists():
                scratch = folder.with_name(f"{name}.partial")
                shutil.rmtree(scratch, ignore_errors=True)
                scratch.mkdir()
                try:
                    make(scratch)
                    # The rename is last, so a folder of the final name is always complete.
                    scratch.rename(folder)
                finally:
                    shutil.rmtree(scratch, ignore_errors=True)
    cache_upkeep.use(folder, progress)
    return folder


def _short(each: Base) -> str:
    return each.name.rpartition("/")[2]
