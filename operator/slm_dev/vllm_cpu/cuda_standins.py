"""Compiled stand-ins for the CUDA libraries, so that a CUDA build of torch imports without them.

For a test environment only. The torch that pip installs by default is built for CUDA and does not
import unless about four gigabytes of NVIDIA libraries can be loaded, although a machine without a
GPU never calls into them. Each stand-in has the name, the symbols and the symbol versions that
torch's own libraries ask for, read from those with readelf; each function answers
cudaErrorNoDevice, which torch takes to mean that there is no GPU. A server that is to compute on a
GPU needs the real libraries.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from slm_dev.vllm_cpu.commands import Run

# torch's run path looks here, beside the package, so no LD_LIBRARY_PATH is needed.
STANDIN_FOLDER = Path("nvidia/cu13/lib")

_CUDA_LIBRARY = re.compile(r"lib(cu|nv|nccl)")
_CUDA_SYMBOL = re.compile(r"(cu|nccl|nv)[a-zA-Z]*[A-Z]")
_DRIVER = "libcuda.so.1"
# Every torch library that needs CUDA loads this one, so it can carry the symbols without a version.
_RUNTIME = re.compile(r"libcudart\.so")
_TEXT_FUNCTION = re.compile(r"(String|Name|ncclGetLastError)$")

# In another language readelf words its lines differently.
_READELF = ("env", "LC_ALL=C", "readelf", "-W", "--dynamic", "--version-info", "--dyn-syms")
_NEEDED_LINE = re.compile(r"\(NEEDED\).*\[(?P<soname>[^]]+)\]")
_FILE_LINE = re.compile(r" Version: \d+ +File: (?P<soname>\S+)")
_VERSION_LINE = re.compile(r" Name: (?P<version>\S+) +Flags: .* Version: \d+$")
_UNDEFINED_LINE = re.compile(
    r" (FUNC|NOTYPE) +GLOBAL +DEFAULT +UND +(?P<name>[^@\s]+)(@(?P<version>\S+))?"
)

# The functions that each version of each library must have: soname, version, names.
Wanted = dict[str, dict[str, set[str]]]


def add_wanted(wanted: Wanted, readelf_output: str) -> None:
    """Add to `wanted` what one library needs of CUDA, as readelf tells it."""
    soname_of_version: dict[str, str] = {}
    functions: list[tuple[str, str | None]] = []
    soname = ""
    for line in readelf_output.splitlines():
        if found := _NEEDED_LINE.search(line):
            # The driver is absent wherever there is no GPU; torch loads it only when asked to.
            if _CUDA_LIBRARY.match(found["soname"]) and found["soname"] != _DRIVER:
                wanted.setdefault(found["soname"], {})
        elif found := _FILE_LINE.search(line):
            soname = found["soname"]
        elif found := _VERSION_LINE.search(line):
            soname_of_version[found["version"]] = soname
        elif found := _UNDEFINED_LINE.search(line):
            functions.append((found["name"], found["version"]))
    runtime = next((one for one in wanted if _RUNTIME.match(one)), None)
    for name, version in functions:
        if version is not None:
            library = soname_of_version[version]
            if library in wanted:
                wanted[library].setdefault(version, set()).add(name)
        elif runtime is not None and _CUDA_SYMBOL.match(name):
            wanted[runtime].setdefault(runtime, set()).add(name)


def c_source(functions: set[str]) -> str:
    """Return C that defines each of `functions` to answer cudaErrorNoDevice, or a text."""
    lines = []
    for name in sorted(functions):
        if _TEXT_FUNCTION.search(name):
            lines.append(f'const char *{name}(void) {{ return "no CUDA on this machine"; }}')
        else:
            lines.append(f"int {name}(void) {{ return 100; }}")
    return "\n".join(lines) + "\n"


def version_script(versions: Mapping[str, set[str]]) -> str:
    """Return the linker's script that gives each function its version."""
    return "".join(
        f"{version} {{ global: {' '.join(f'{name};' for name in sorted(names))} }};\n"
        for version, names in versions.items()
    )


def build_standins(site_packages: Path, run: Run) -> int:
    """Compile the stand-ins into `site_packages`, where torch is, and return how many there are.

    Raises SetupError when readelf or gcc fails.
    """
    target = site_packages / STANDIN_FOLDER
    target.mkdir(parents=True, exist_ok=True)
    wanted: Wanted = {}
    for library in sorted((site_packages / "torch/lib").glob("*.so")):
        add_wanted(wanted, run([*_READELF, str(library)]))
    with tempfile.TemporaryDirectory() as scratch:
        source, script = Path(scratch) / "standin.c", Path(scratch) / "standin.map"
        for soname, versions in wanted.items():
            source.write_text(c_source(set().union(*versions.values())))
            script.write_text(version_script(versions))
            run(
                [
                    *("gcc", "-shared", "-fPIC", "-fno-builtin", "-o", str(target / soname)),
                    f"-Wl,-soname,{soname}",
                    *([f"-Wl,--version-script={script}"] if versions else []),
                    str(source),
                ]
            )
    return len(wanted)
