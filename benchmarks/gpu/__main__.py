"""``make bench-gpu``: the whole sweep and its summary, on this machine's GPU or, without one, on
stand-ins, whose figures all say simulated."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from pathlib import Path

import pynvml

from benchmarks.gpu.lengths import TRACE
from benchmarks.gpu.models import MODELS
from benchmarks.gpu.points import DEFAULT_POINTS
from benchmarks.gpu.summary import write
from benchmarks.gpu.sweep import NotStartingError, Settings, sweep

WINDOWS = Path("report") / "gpu"
"""Kept between calls: what is there is not measured again."""


def gpu_is_here() -> bool:
    """Whether the NVIDIA driver answers and shows a GPU."""
    try:
        pynvml.nvmlInit()
        found = pynvml.nvmlDeviceGetCount() > 0
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return False
    return bool(found)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--model", choices=list(MODELS), default="opt-1.3b")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    simulated = not gpu_is_here()
    if simulated:
        print("no NVIDIA GPU here: stand-ins play driver, MPS and vLLM, every figure is SIMULATED")
    elif shutil.which("vllm") is None:
        sys.exit("error: no program named vllm is on PATH: see benchmarks/gpu/README.md")
    settings = Settings(
        model=arguments.model,
        points=DEFAULT_POINTS,
        rounds=arguments.rounds,
        warmup_seconds=5.0 if simulated else 20.0,
        window_seconds=15.0 if simulated else 45.0,
        budget_seconds=float("inf"),
        simulated=simulated,
    )
    windows = WINDOWS / f"{arguments.model}{'-simulated' if simulated else ''}"
    command = f"python -m benchmarks.gpu --model {arguments.model} --rounds {arguments.rounds}"
    try:
        asyncio.run(sweep(settings, windows, command))
    except NotStartingError as error:
        sys.exit(f"error: {error}")
    name = f"gpu_{arguments.model.replace('.', '_').replace('-', '_')}"
    print(write(windows / TRACE, name).choice.sentence)


if __name__ == "__main__":
    main()
