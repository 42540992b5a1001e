"""What stands below the attributes of a module and of its classes, which Python does not keep."""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise
from types import ModuleType


def attribute_docs(module: ModuleType) -> dict[str, dict[str, str]]:
    """By class, with "" for the module itself, the docstring of each attribute that has one."""
    tree = ast.parse(inspect.getsource(module))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return {"": _docs(tree.body), **{each.name: _docs(each.body) for each in classes}}


def _docs(body: list[ast.stmt]) -> dict[str, str]:
    found = {}
    for statement, below in pairwise(body):
        match statement, below:
            case (
                ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(text.split())
    return found
