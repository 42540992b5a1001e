"""The stand-ins for the CUDA libraries, compiled and loaded for real."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest

from slm_dev.vllm_cpu.commands import run_command
from slm_dev.vllm_cpu.cuda_standins import STANDIN_FOLDER, add_wanted, build_standins, c_source
from slm_dev.vllm_cpu.errors import SetupError

CUDART = "libcudart.so.13"
NVSHMEM = "libnvshmem_host.so.3"


def compile_library(source: str, target: Path, *flags: str) -> None:
    file = target.with_suffix(".c")
    file.write_text(source)
    run_command(["gcc", "-shared", "-fPIC", "-o", str(target), str(file), *flags])


@pytest.fixture
def site_packages(tmp_path: Path) -> Path:
    """A "torch" linked against CUDA libraries that are then gone."""
    torch_lib, real = tmp_path / "torch/lib", tmp_path / "real"
    torch_lib.mkdir(parents=True)
    real.mkdir()
    for soname, version, function in (
        (CUDART, CUDART, "cudaGetDeviceCount"),
        (NVSHMEM, "NVSHMEM", "nvshmem_malloc"),
    ):
        script = real / "map"
        script.write_text(f"{version} {{ global: *; }};")
        flags = (f"-Wl,-soname,{soname}", f"-Wl,--version-script={script}")
        compile_library(f"int {function}(void) {{ return 0; }}", real / soname, *flags)
    compile_library(
        "int cudaGetDeviceCount(void), nvshmem_malloc(void), ncclGetUniqueId(void);"
        "int torch_devices(void) { return cudaGetDeviceCount(); }"
        "int torch_other(void) { return nvshmem_malloc() + ncclGetUniqueId(); }",
        torch_lib / "libtorch_cuda.so",
        *(str(real / CUDART), str(real / NVSHMEM)),
        f"-Wl,-rpath,$ORIGIN/../../{STANDIN_FOLDER}",
    )
    for library in real.iterdir():
        library.unlink()
    return tmp_path


def test_torch_loads_with_the_standins_and_finds_no_device(site_packages: Path) -> None:
    torch = site_packages / "torch/lib/libtorch_cuda.so"
    # In another process: the loader remembers which folders were missing.
    load = [sys.executable, "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1])", str(torch)]
    with pytest.raises(SetupError, match="cannot open shared object"):
        run_command(load)
    assert build_standins(site_packages, run_command) == 2
    loaded = ctypes.CDLL(str(torch), mode=ctypes.RTLD_GLOBAL)
    assert loaded.torch_devices() == 100
    assert loaded.torch_other() == 200


def test_functions_that_return_text_return_text() -> None:
    source = c_source({"cudaGetErrorString", "cudaGetLastError"})
    assert "const char *cudaGetErrorString(void)" in source
    assert "int cudaGetLastError(void) { return 100; }" in source


def test_driver_and_other_libraries_are_left_alone() -> None:
    wanted: dict[str, dict[str, set[str]]] = {}
    add_wanted(
        wanted,
        " 0x01 (NEEDED)  Shared library: [libcuda.so.1]\n"
        " 0x01 (NEEDED)  Shared library: [libc.so.6]\n"
        " 0x01 (NEEDED)  Shared library: [libnccl.so.2]\n"
        "  0x0010: Version: 1  File: libc.so.6  Cnt: 1\n"
        "  0x0020:   Name: GLIBC_2.4  Flags: none  Version: 5\n"
        "   6: 0000000000000000     0 FUNC    GLOBAL DEFAULT  UND read@GLIBC_2.4 (5)\n",
    )
    assert wanted == {"libnccl.so.2": {}}
