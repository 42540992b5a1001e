"""How a benchmark reports: a table for the reader, a JSON file for the record."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"

Figure = float | int | str | bool | None
Machine = Mapping[str, str | int | None]


def write(
    name: str,
    figures: Mapping[str, Figure],
    command: str,
    raw: Mapping[str, object] | None = None,
    results: Path = RESULTS,
    machine: Machine | None = None,
) -> Path:
    """Print ``figures`` as a table and write them to ``NAME.json`` in ``results``.

    ``figures`` maps a name that ends in its unit to a value; ``command`` reproduces them. ``raw``
    is what they were computed from, for the file alone. ``machine`` is where they were measured;
    None: here.
    """
    machine = machine or describe_machine()
    table = Table(title=f"{name} on {machine['cpu']}, {machine['cores']} cores")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for key, value in figures.items():
        table.add_row(key, _text(value))
    Console().print(table)

    results.mkdir(exist_ok=True)
    path = results / f"{name}.json"
    record = {
        "machine": machine,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "figures": dict(figures),
        **({} if raw is None else {"raw": raw}),
    }
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path


def describe_machine() -> Machine:
    """CPU model, cores, memory, operating system and Python of this machine."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "os": platform.platform(),
        "python": platform.python_version(),
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _text(value: Figure) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
