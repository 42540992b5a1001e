"""The base with vLLM for the CPU: what of the environment is in it, and how the worker gets it."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from slm_dev.images import vllm_base
from slm_dev.images.layers import Entry
from slm_dev.images.oci import Layout
from slm_dev.images.vllm_base import (
    SITE_PACKAGES,
    compile_packages,
    ensure_vllm_base,
    environment_entries,
)
from slm_dev.vllm_cpu.errors import SetupError

FILES = (
    "vllm/__init__.py",
    "vllm/__pycache__/__init__.cpython-311.pyc",
    "vllm-1.dist-info/METADATA",
    "vllm-1.dist-info/RECORD",
    "pip/__init__.py",
    "pip-24.0.dist-info/METADATA",
    "torch/include/torch/library.h",
    "torch/include_me.py",
    "other/pip/kept.py",
)


def environment(root: Path) -> Path:
    packages = root / "lib/python3.11/site-packages"
    for name in FILES:
        file = packages / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return packages


def by_path(root: Path) -> dict[str, Entry]:
    packages, compiled = environment(root / "environment"), root / "compiled"
    bytecode = compiled / packages.relative_to("/") / "vllm/__init__.cpython-311.pyc"
    bytecode.parent.mkdir(parents=True)
    bytecode.write_text("compiled")
    return {entry.path: entry for entry in environment_entries(packages, compiled)}


def test_the_packages_are_in_it_but_for_what_only_an_installer_or_a_compiler_needs(
    tmp_path: Path,
) -> None:
    inside = {path.removeprefix(f"{SITE_PACKAGES}/") for path in by_path(tmp_path)}

    assert inside == {
        "opt/vllm/pyvenv.cfg",
        "opt/vllm/bin/python3",
        "opt/vllm/bin/vllm",
        "vllm/__init__.py",
        "vllm/__pycache__/__init__.cpython-311.pyc",
        "vllm-1.dist-info/METADATA",
        "torch/include_me.py",
        "other/pip/kept.py",
    }


def test_its_bytecode_is_the_one_compiled_for_it(tmp_path: Path) -> None:
    source = by_path(tmp_path)[f"{SITE_PACKAGES}/vllm/__pycache__/__init__.cpython-311.pyc"].source

    assert source is not None
    assert source.read_text() == "compiled"


def test_its_program_starts_with_its_own_python_and_tells_no_path_of_the_host(
    tmp_path: Path,
) -> None:
    entries = by_path(tmp_path)

    assert entries["opt/vllm/bin/vllm"].content.startswith(b"#!/opt/vllm/bin/python3\n")
    assert entries["opt/vllm/bin/vllm"].mode == 0o755
    assert entries["opt/vllm/bin/python3"].link == "/usr/bin/python3"
    for entry in entries.values():
        assert str(tmp_path).encode() not in entry.content


def test_bytecode_names_the_place_in_the_image_and_needs_no_time_of_its_source(
    tmp_path: Path,
) -> None:
    commands: list[Sequence[str]] = []

    def run(command: Sequence[str]) -> str:
        commands.append(command)
        return ""

    compile_packages(Path("/e/bin/python"), Path("/e/site-packages"), tmp_path, run)

    (command,) = commands
    assert command[command.index("-p") + 1] == f"/{SITE_PACKAGES}"
    assert command[command.index("--invalidation-mode") + 1] == "unchecked-hash"
    assert f"PYTHONPYCACHEPREFIX={tmp_path}" in command


def test_another_python_than_the_images_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_base, "BASE_PYTHON", "3.99")

    with pytest.raises(SetupError, match=r"run it with Python 3\.99"):
        ensure_vllm_base(Layout(tmp_path), print)
