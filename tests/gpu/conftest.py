"""What these tests need, looked for before the first of them: they run where a GPU is, by
``make test-gpu``, and belong to no other target."""

from __future__ import annotations

import shutil
from pathlib import Path

import pynvml
import pytest


def missing() -> list[str]:
    """What this machine lacks, each with its remedy."""
    lacks = [
        f"no program named {program} is on PATH: {remedy}"
        for program, remedy in (
            ("vllm", "benchmarks/gpu/README.md says how to bring it"),
            ("haproxy", "install it, or bring it with benchmarks.gpu.carry"),
        )
        if shutil.which(program) is None
    ]
    try:
        pynvml.nvmlInit()
        if not pynvml.nvmlDeviceGetCount():
            lacks.append("the NVIDIA driver shows no GPU: run where one is")
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        lacks.append(f"no NVIDIA driver ({error}): run where a GPU is")
    return lacks


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Ends the run at once, with everything that is missing, instead of failing test by test."""
    here = Path(__file__).parent
    lacks = missing() if any(here in item.path.parents for item in items) else []
    if lacks:
        raise pytest.UsageError("tests/gpu cannot run here: " + "; ".join(lacks))
