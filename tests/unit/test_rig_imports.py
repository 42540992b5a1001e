"""No test module is imported: what tests share stands in a module of its own beside them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TEST_MODULES = {path.stem for path in (REPOSITORY / "tests").rglob("test_*.py")}
FOLDERS = ("tests", "benchmarks")


def imported_test_modules(source: str) -> set[str]:
    """By the last part of a name, since they are found by it (pytest's ``pythonpath``) as well as
    from the repository's root."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
            names.update(alias.name for alias in node.names)
    return {name.rpartition(".")[2] for name in names} & TEST_MODULES


def test_no_test_module_is_imported() -> None:
    sources = [path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.py")]
    assert {Path(__file__)} < set(sources)
    found = {
        str(path.relative_to(REPOSITORY)): modules
        for path in sources
        if (modules := imported_test_modules(path.read_text()))
    }
    assert found == {}, "move what is shared into a module that holds no tests"


@pytest.mark.parametrize(
    "line",
    [
        "from test_controller import settings",
        "import test_controller as controller",
        "from tests.unit.test_controller import settings",
        "from tests.unit import test_controller",
        "def later():\n    import tests.unit.test_controller",
    ],
)
def test_an_import_of_one_is_seen(line: str) -> None:
    assert imported_test_modules(line) == {"test_controller"}


@pytest.mark.parametrize(
    "line", ["from aiohttp.test_utils import TestServer", "from mortal_world import World"]
)
def test_other_imports_are_free(line: str) -> None:
    assert imported_test_modules(line) == set()
