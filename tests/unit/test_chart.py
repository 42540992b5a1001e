"""The chart's values: each with a schema and a description, and nothing written twice by hand."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from slm_dev import chart
from slm_dev.chart import CHART, Schema, Value

ROOT = Path(__file__).parents[2]
TEXT = (CHART / "values.yaml").read_text()
SCHEMA: Schema = json.loads((CHART / "values.schema.json").read_text())
VALUES = chart.read_values(TEXT)
OPEN = {
    # Helm's own, which subcharts share.
    ".global",
    # Kubernetes' own, which the API server checks.
    ".operator.extraVolumes[]",
    "#affinity.nodeAffinity",
    "#affinity.podAffinity",
    "#affinity.podAntiAffinity",
    "#env[].valueFrom",
    "#peers[].namespaceSelector",
    "#peers[].podSelector",
    "#topologySpreadConstraints[].labelSelector",
}


def nodes(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")


ALL = [*nodes(SCHEMA, "")] + [
    each for name, child in SCHEMA["$defs"].items() for each in nodes(child, f"#{name}")
]


def test_readme_and_descriptions_are_those_of_the_values() -> None:
    described = chart.describe(SCHEMA, VALUES)
    assert chart.schema_text(described) == (CHART / "values.schema.json").read_text(), "make chart"
    assert chart.readme(SCHEMA, VALUES) == (CHART / "README.md").read_text(), "make chart"


def test_a_comment_belongs_to_the_key_below_it() -> None:
    text = "# of a\n# in two lines\na: 1\n\n# of nobody\n\nb:\n  # of c\n  c: [2]\n  d: x:y\n"
    assert chart.read_values(text) == [
        Value(("a",), "of a in two lines", 1),
        Value(("b",), "", {"c": [2], "d": "x:y"}),
        Value(("b", "c"), "of c", [2]),
        Value(("b", "d"), "", "x:y"),
    ]


def test_every_value_has_a_schema_and_a_description() -> None:
    found = list(chart.leaves(SCHEMA, VALUES))
    assert [".".join(each.path) for each in found if not each.description] == []
    with pytest.raises(KeyError, match=r"knows no image\.flavour"):
        chart.at(SCHEMA, ("image", "flavour"))


def test_every_schema_has_a_value() -> None:
    def missing(schema: Schema, values: object, path: str) -> list[str]:
        if "properties" not in schema or not isinstance(values, dict):
            return []
        return [
            each
            for name, child in schema["properties"].items()
            for each in (
                missing(child, values[name], f"{path}.{name}")
                if name in values
                else [f"{path}.{name}"]
            )
        ]

    assert missing(SCHEMA, yaml.safe_load(TEXT), "") == [".global"]


def test_no_object_takes_unknown_fields_but_those_of_kubernetes() -> None:
    is_open = {
        path
        for path, node in ALL
        if node.get("type") == "object" and "additionalProperties" not in node
    }
    assert is_open == OPEN
    assert all(node.get("additionalProperties") is not True for _, node in ALL)


def test_the_versions_are_that_of_the_package() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (about["version"], about["appVersion"]) == (version, version)
