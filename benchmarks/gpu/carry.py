"""Brings vLLM and HAProxy to a machine without a network, in parts of at most 52 MiB.

    python -m benchmarks.gpu.carry pack                      # here: fills .gpu-carry/
    python3 -m benchmarks.gpu.carry unpack --into DIR        # there, after each part or all of them
    python3 -m benchmarks.gpu.carry install --into DIR       # there, once all parts are in

``unpack`` takes the parts that ``.gpu-carry/`` holds at that moment and says which are missing, so
they may come one at a time. ``install`` prints the environment to measure with. DIR lies outside
the checkout. This module runs with nothing but Python's standard library.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
PARTS = ROOT / ".gpu-carry"
PART_BYTES = 52 * 2**20
"""With the checkout they travel together, and 64 MiB at once at most."""
MANIFEST = "manifest.json"
ARCHIVE = "archive.tar.xz"
PYTHON_VERSION = "3.12"
PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in (39, 35, 34, 31, 28, 27, 26, 24, 17, 12, 5)),
    *("manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"),
)
"""pip matches each by its name, and takes no newer one for an older."""
PROGRAM = "haproxy"
LEFT_OUT = (
    "vllm/_moe_C.abi3.so",
    "vllm/vllm_flash_attn/_vllm_fa2_C.abi3.so",
    "vllm/vllm-rs",
    "vllm/third_party/deep_gemm",
    "vllm/vllm_flash_attn/cute",
    "mistral_common/data",
    "pycountry/locales",
)
"""What a dense model on Hopper does not need: of vLLM's wheel the kernels for mixtures of experts,
for older and for newer GPUs, and a front end of its own, which are most of the wheel; of others,
Mistral's tokenizers and the names of countries in all languages."""
OF_EVERY_LINUX = re.compile(r"/(ld-linux|libc|libm|libdl|libpthread|librt|libgcc_s|libstdc\+\+)\b")


class CarryError(Exception):
    """The text says what is missing or broken, and what to do."""


@dataclass(frozen=True)
class Part:
    name: str
    size_bytes: int
    sha256: str


def split(archive: Path, into: Path, part_bytes: int = PART_BYTES) -> tuple[Part, ...]:
    """Cuts a file into parts and writes their manifest beside them."""
    parts: list[Part] = []
    with archive.open("rb") as file:
        while piece := file.read(part_bytes):
            name = f"part-{len(parts):02d}"
            (into / name).write_bytes(piece)
            parts.append(Part(name, len(piece), hashlib.sha256(piece).hexdigest()))
    (into / MANIFEST).write_text(json.dumps([asdict(part) for part in parts], indent=2) + "\n")
    return tuple(parts)


def manifest(folder: Path) -> tuple[Part, ...]:
    """Raises CarryError."""
    try:
        return tuple(Part(**part) for part in json.loads((folder / MANIFEST).read_text()))
    except OSError as error:
        raise CarryError(f"no {folder / MANIFEST} ({error}): run pack where a network is") from None


def collect(parts: Sequence[Part], source: Path, into: Path) -> tuple[str, ...]:
    """Keeps the parts that ``source`` holds and answers which are missing still.

    Raises CarryError for a part that is not what was packed.
    """
    into.mkdir(parents=True, exist_ok=True)
    for part in parts:
        found, kept = source / part.name, into / part.name
        if found.exists() and not kept.exists():
            data = found.read_bytes()
            if hashlib.sha256(data).hexdigest() != part.sha256:
                raise CarryError(f"{found} is not the part that was packed: bring it again")
            kept.write_bytes(data)
    return tuple(part.name for part in parts if not (into / part.name).exists())


def join(parts: Sequence[Part], folder: Path, archive: Path) -> None:
    """Puts the parts together; each is removed once it is in, so that the disk holds one copy."""
    with archive.open("wb") as file:
        for part in parts:
            file.write((folder / part.name).read_bytes())
            (folder / part.name).unlink()


def shared_libraries(ldd_output: str) -> Iterator[Path]:
    """What a program needs beside the C library, from what ldd prints of it."""
    for line in ldd_output.splitlines():
        found = re.search(r"=> (/\S+)", line)
        if found and not OF_EVERY_LINUX.search(found[1]):
            yield Path(found[1])


def pack() -> None:
    """Downloads, builds, collects and splits. Raises CalledProcessError and CarryError."""
    shutil.rmtree(PARTS, ignore_errors=True)
    load = PARTS / "load"
    site = load / "site"
    site.mkdir(parents=True)
    platforms = [argument for name in PLATFORMS for argument in ("--platform", name)]
    # The agent asks for its own version, so the project travels as a distribution too.
    _run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--wheel-dir", str(load), str(ROOT)),
    )
    (own,) = load.glob("*.whl")
    _run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"),
        *("--only-binary=:all:", "--python-version", PYTHON_VERSION, "--implementation", "cp"),
        *(*platforms, "--target", str(site), "--requirement", str(REQUIREMENTS)),
        str(own),
    )
    own.unlink()
    shutil.rmtree(site / "bin")
    for name in LEFT_OUT:
        path = site / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    _collect_program(load / "programs")
    _run(
        "tar",
        "--create",
        "--use-compress-program=xz -T0 --x86 --lzma2=preset=9",
        f"--file={PARTS / ARCHIVE}",
        f"--directory={load}",
        ".",
    )
    shutil.rmtree(load)
    parts = split(PARTS / ARCHIVE, PARTS)
    (PARTS / ARCHIVE).unlink()
    total = sum(part.size_bytes for part in parts) // 2**20
    print(f"{len(parts)} parts, {total} MiB in {PARTS}: {' '.join(part.name for part in parts)}")


def unpack(into: Path) -> None:
    """Raises CarryError."""
    parts = manifest(PARTS)
    if (into / "site").exists():
        print("unpacked already")
        return
    missing = collect(parts, PARTS, into / "parts")
    if missing:
        print(f"missing still: {' '.join(missing)}")
        return
    join(parts, into / "parts", into / ARCHIVE)
    with tarfile.open(into / ARCHIVE) as archive:
        archive.extractall(into, filter="data")
    (into / ARCHIVE).unlink()
    print(f"unpacked into {into}")


def install(into: Path) -> None:
    """Raises CarryError."""
    site = into / "site"
    if not site.exists():
        raise CarryError(f"no {site}: unpack all parts first")
    # Each of vLLM's processes imports thousands of files, and an image may have no bytecode of them
    # and forbid to keep any. What is for another Python does not compile, which is no error.
    bytecode = into / "bytecode"
    subprocess.run(
        (
            *(sys.executable, "-m", "compileall", "-qq", "-j0", site),
            *_folders_of("torch", "transformers", "triton"),
        ),
        env={**os.environ, "PYTHONPYCACHEPREFIX": str(bytecode)},
        check=False,
    )
    programs = into / "programs"
    # A program finds its libraries beside it, and nobody else does: they are of another system.
    _write_program(
        programs / "bin" / PROGRAM,
        f'#!/bin/sh\nLD_LIBRARY_PATH={programs / "lib"} exec {programs / PROGRAM} "$@"\n',
    )
    _write_program(
        programs / "bin" / "vllm",
        f"#!{sys.executable}\nimport sys\n"
        "from vllm.entrypoints.cli.main import main\n"
        # Its engine is spawned, which imports this program anew.
        'if __name__ == "__main__":\n    sys.exit(main())\n',
    )
    print(f"export PYTHONPATH={ROOT}:{ROOT}/worker:{ROOT}/operator:{site}")
    print(f"export PATH={programs / 'bin'}:$PATH")
    print(f"export PYTHONPYCACHEPREFIX={bytecode} PYTHONDONTWRITEBYTECODE=")
    # vLLM takes flashinfer for there on Hopper, unless told.
    print("export VLLM_USE_FLASHINFER_SAMPLER=0")


def _folders_of(*packages: str) -> Iterator[Path]:
    for package in packages:
        found = importlib.util.find_spec(package)
        if found is not None and found.origin is not None:
            yield Path(found.origin).parent


def _write_program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def _collect_program(into: Path) -> None:
    (into / "lib").mkdir(parents=True)
    program = shutil.which(PROGRAM)
    if program is None:
        raise CarryError(f"{PROGRAM} is not installed here: run make setup")
    shutil.copy(program, into / PROGRAM)
    listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True)
    for library in shared_libraries(listed.stdout):
        shutil.copy(library, into / "lib")


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("pack")
    for verb in ("unpack", "install"):
        verbs.add_parser(verb).add_argument("--into", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        match arguments.verb:
            case "pack":
                pack()
            case "unpack":
                unpack(arguments.into)
            case _:
                install(arguments.into)
    except CarryError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
