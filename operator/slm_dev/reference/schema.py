"""A JSON schema in words: type, bounds and default of each field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from slm_dev.reference.markdown import code

Schema = dict[str, Any]

_BOUNDS = (
    ("minimum", "maximum", ""),
    ("minLength", "maxLength", " characters"),
    ("minItems", "maxItems", " entries"),
    ("minProperties", "maxProperties", " entries"),
)


@dataclass(frozen=True)
class Field:
    path: str
    """Such as spec.engine.env[].name."""
    schema: Schema
    required: bool
    """Within what it is a part of."""


def fields(path: str, schema: Schema) -> Iterator[Field]:
    """All below ``path``, each before those in it. The schema has no references."""
    for name, child in schema.get("properties", {}).items():
        field = Field(f"{path}.{name}", child, name in schema.get("required", ()))
        yield field
        yield from fields(field.path, child)
        yield from fields(f"{field.path}[]", child.get("items", {}))


def kind(schema: Schema) -> str:
    """Of a schema without references."""
    if schema.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if schema.get("type") == "array":
        return f"list of {kind(schema['items'])}"
    if "additionalProperties" in schema:
        return f"map of {kind(schema['additionalProperties'])}"
    return str(schema.get("type", "any"))


def bounds(schema: Schema) -> str:
    """What a value has to keep, and each entry of a list or map with it."""
    said = []
    if "enum" in schema:
        said.append(", ".join(code(str(value)) for value in schema["enum"]))
    for least, most, unit in _BOUNDS:
        low, high = schema.get(least), schema.get(most)
        if low is not None and high is not None:
            said.append(f"{low} to {high}{unit}")
        elif low is not None:
            said.append(f"at least {low}{unit}")
        elif high is not None:
            said.append(f"at most {high}{unit}")
    if "pattern" in schema:
        said.append(f"matches {code(schema['pattern'])}")
    for key in ("items", "additionalProperties"):
        inner = schema.get(key)
        if isinstance(inner, dict) and "properties" not in inner and (each := bounds(inner)):
            said.append(f"each {each}")
    return "; ".join(said)


def default(schema: Schema) -> str:
    """Of a plain value: what is left out of an object or a list has defaults of its own."""
    value = schema.get("default")
    return "" if value is None or isinstance(value, dict | list) else code(json.dumps(value))
