"""Writes what is said of the chart's values where people look for it: the comments of values.yaml
as a table into the chart's README, and as descriptions into values.schema.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parents[2] / "charts" / "slm-operator"
INDENT = 2
"""Spaces for each level of values.yaml."""

Schema = dict[str, Any]


@dataclass(frozen=True)
class Value:
    """One value, or a group of them, as values.yaml has it."""

    path: tuple[str, ...]
    description: str
    default: Any


def read_values(text: str) -> list[Value]:
    """In their order. A comment belongs to the key below it; an empty line ends it."""
    found = []
    comment: list[str] = []
    path: list[str] = []
    defaults = yaml.safe_load(text)
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.removeprefix("#").strip())
            continue
        key, colon, _ = stripped.partition(":")
        if colon:
            level = (len(line) - len(line.lstrip())) // INDENT
            path = [*path[:level], key]
            found.append(Value(tuple(path), " ".join(comment), _at(defaults, path)))
        comment = []
    return found


def _at(values: Any, path: list[str]) -> Any:
    for key in path:
        values = values[key]
    return values


def describe(schema: Schema, values: list[Value]) -> Schema:
    """``schema`` with the description of every value. Raises KeyError for a value without a
    schema."""
    described: Schema = json.loads(json.dumps(schema))
    for value in values:
        found = at(described, value.path)
        if value.description and found is not None:
            found["description"] = value.description
    return described


def at(schema: Schema, path: tuple[str, ...]) -> Schema | None:
    """The schema of a value; None below one that is Kubernetes' own, or a map of texts, whose
    schema is shared. Raises KeyError when there is none."""
    for key in path:
        if "$ref" in schema:
            return None
        if key not in schema["properties"]:
            raise KeyError(f"values.schema.json knows no {'.'.join(path)}: add it")
        schema = schema["properties"][key]
    return schema


def leaves(schema: Schema, values: list[Value]) -> Iterator[Value]:
    """Those that a user sets: neither groups of others nor parts of a default."""
    for value in values:
        found = at(schema, value.path)
        if found is not None and "properties" not in found:
            yield value


def readme(schema: Schema, values: list[Value]) -> str:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    lines = [
        "<!-- Generated from values.yaml by `make chart`. -->",
        "# Chart slm-operator",
        "",
        about["description"],
        "",
        "    helm install slm-operator charts/slm-operator --namespace slm-system"
        " --create-namespace \\",
        "      --set image.repository=REGISTRY/slm-operator"
        " --set worker.image.repository=REGISTRY/slm-worker",
        "",
        "[docs/install.md](../../docs/install.md) tells what the cluster needs, and how to verify, "
        "upgrade, roll back and uninstall. `values.schema.json` refuses values that are not here.",
        "",
        "| value | default | |",
        "|---|---|---|",
    ]
    lines += [
        f"| `{'.'.join(value.path)}` | `{json.dumps(value.default)}` | {value.description} |"
        for value in leaves(schema, values)
    ]
    return "\n".join(lines) + "\n"


def schema_text(schema: Schema) -> str:
    return json.dumps(schema, indent=2) + "\n"


def main() -> None:
    values = read_values((CHART / "values.yaml").read_text())
    path = CHART / "values.schema.json"
    schema = describe(json.loads(path.read_text()), values)
    path.write_text(schema_text(schema))
    (CHART / "README.md").write_text(readme(schema, values))


if __name__ == "__main__":
    main()
