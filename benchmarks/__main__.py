"""Lists the benchmarks, each with the first line of its docstring."""

from __future__ import annotations

import ast
from pathlib import Path

from rich.console import Console
from rich.table import Table


def purposes(folder: Path) -> dict[str, str]:
    """Name and purpose of each benchmark in ``folder``: of the modules that have a ``main``."""
    found = {}
    for path in sorted(folder.glob("[!_]*.py")):
        module = ast.parse(path.read_text(), str(path))
        if any(isinstance(each, ast.FunctionDef) and each.name == "main" for each in module.body):
            found[path.stem] = (ast.get_docstring(module) or "").partition("\n")[0]
    return found


def main() -> None:
    table = Table("NAME", "what it measures", title="make bench NAME=...")
    for name, purpose in purposes(Path(__file__).parent).items():
        table.add_row(name, purpose)
    Console().print(table)


if __name__ == "__main__":
    main()
