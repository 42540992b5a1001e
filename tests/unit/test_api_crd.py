"""The CRD: generated from the models, checked in, and structural."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from slm_operator.api.crd import crd, crd_yaml, structural
from slm_operator.api.models import SLMService

ROOT = Path(__file__).parents[2]
CRD_FILE = ROOT / "crds" / "slmservices.serving.slm.dev.yaml"
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))

Schema = dict[str, Any]


@pytest.fixture(scope="module")
def root() -> Schema:
    (version,) = crd()["spec"]["versions"]
    schema: Schema = version["schema"]["openAPIV3Schema"]
    return schema


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every schema below ``schema``, with the path of its field."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")


def at(schema: Schema, path: str) -> Schema:
    return dict(nodes(schema))[path]


def test_the_checked_in_crd_is_what_the_models_generate() -> None:
    assert CRD_FILE.read_text() == crd_yaml(), (
        f"run `python -m slm_operator.api.crd > crds/{CRD_FILE.name}`"
    )


def test_the_chart_brings_the_same_crd() -> None:
    copy = ROOT / "charts" / "slm-operator" / "files" / "crds" / CRD_FILE.name
    assert copy.read_text() == CRD_FILE.read_text(), "run `make crds`"


def test_every_field_is_explained(root: Schema) -> None:
    silent = [
        path
        for path, node in nodes(root)
        if not node.get("description") and not path.endswith("[]") and path != ".metadata"
    ]
    assert silent == []


def test_the_schema_is_structural(root: Schema) -> None:
    for path, node in nodes(root):
        if not node.get("x-kubernetes-int-or-string"):
            assert node["type"] in {"object", "array", "string", "integer", "boolean"}, path
        assert not {"$ref", "anyOf", "title", "const"} & set(node), path


def test_every_string_and_list_is_bounded(root: Schema) -> None:
    for path, node in nodes(root):
        if node.get("type") == "string" and path not in {".apiVersion", ".kind"}:
            assert "maxLength" in node or "enum" in node, path
        if node.get("x-kubernetes-int-or-string"):
            assert node["maxLength"] == 16, path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path
        if node.get("type") == "array":
            assert "maxItems" in node, path


def test_every_list_says_how_it_merges(root: Schema) -> None:
    kinds = {
        path: (node.get("x-kubernetes-list-type"), node.get("x-kubernetes-list-map-keys"))
        for path, node in nodes(root)
        if node.get("type") == "array"
    }
    assert kinds == {
        ".spec.engine.args": ("atomic", None),
        ".spec.engine.env": ("map", ["name"]),
        ".spec.podTemplate.tolerations": ("atomic", None),
        ".spec.podTemplate.volumes": ("map", ["name"]),
        ".spec.podTemplate.imagePullSecrets": ("map", ["name"]),
        ".status.frontier": ("atomic", None),
        ".status.calibration.failedLayouts": ("atomic", None),
        ".status.conditions": ("map", ["type"]),
        ".status.history": ("atomic", None),
        ".status.history[].inputs": ("map", ["name"]),
        ".status.history[].alternatives": ("atomic", None),
    }


def test_only_the_model_uri_is_required_of_a_user(root: Schema) -> None:
    assert root["required"] == ["spec"]
    assert at(root, ".spec")["required"] == ["model"]
    assert at(root, ".spec.model")["required"] == ["uri"]
    assert "required" not in at(root, ".spec.autoscaling.calibration")


@pytest.mark.parametrize(
    ("path", "default"),
    [
        (".spec.engine", {}),
        (".spec.engine.kind", "vLLM"),
        (".spec.engine.image", ""),
        (".spec.gpu", {}),
        (".spec.gpu.resourceName", "nvidia.com/gpu"),
        (".spec.packs", 1),
        (".spec.autoscaling.calibration", {}),
        (".spec.autoscaling.calibration.promptTokens", 128),
    ],
)
def test_defaults_are_in_the_schema(root: Schema, path: str, default: Any) -> None:
    assert at(root, path)["default"] == default


@pytest.mark.parametrize(
    "path", [".spec.replicasPerPack", ".spec.autoscaling", ".spec.engine.maxNumSeqs"]
)
def test_what_means_something_by_its_absence_has_no_default(root: Schema, path: str) -> None:
    assert "default" not in at(root, path)


def is_mountable(root: Schema, path: str) -> bool:
    """What the first rule of a volume's mountPath says, whose regular expressions mean the same
    to Python."""
    form, _ = at(root, ".spec.podTemplate.volumes[].mountPath")["x-kubernetes-validations"]
    found = re.fullmatch(r"self\.matches\('(.*)'\) && !self\.matches\('(.*)'\)", form["rule"])
    assert found is not None
    wanted, unwanted = found.groups()
    return bool(re.search(wanted, path)) and not re.search(unwanted, path)


@pytest.mark.parametrize(
    "path", ["/models", "/a/b-c", "/.cache", "/..data", "/...", "/a.b/c..d", "/a.", "/a.."]
)
def test_a_volume_is_mounted_at_an_absolute_path(root: Schema, path: str) -> None:
    assert is_mountable(root, path)


@pytest.mark.parametrize(
    "path",
    ["/./tmp", "/run/./slm", "/./proc", "/dev/.", "/.", "/..", "/a/..", "/a/../tmp", "/../a"],
)
def test_no_mount_names_a_directory_by_a_detour(root: Schema, path: str) -> None:
    """/./tmp is the operator's own /tmp, which the next rule would not know by that name."""
    assert not is_mountable(root, path)


@pytest.mark.parametrize("path", ["", "/", "models", "/a//b", "/a/", "//tmp", "/a b"])
def test_no_mount_is_elsewhere_than_at_an_absolute_path(root: Schema, path: str) -> None:
    assert not is_mountable(root, path)


def test_scale_counts_packs() -> None:
    (version,) = crd()["spec"]["versions"]
    assert version["subresources"] == {
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.packs",
            "statusReplicasPath": ".status.packs",
            "labelSelectorPath": ".status.selector",
        },
    }


def test_every_printed_column_shows_a_field(root: Schema) -> None:
    (version,) = crd()["spec"]["versions"]
    known = dict(nodes(root))
    for column in version["additionalPrinterColumns"]:
        path = column["jsonPath"]
        if path.startswith((".metadata", ".status.conditions")):
            continue
        assert known[path]["type"] == column["type"], column["name"]


def test_the_generator_refuses_what_it_would_lose() -> None:
    with pytest.raises(ValueError, match="exclusiveMinimum: 0 has no place"):
        structural({"type": "object", "properties": {"a": {"exclusiveMinimum": 0}}})


def test_a_property_may_be_called_title() -> None:
    schema = structural(
        {"type": "object", "title": "T", "properties": {"title": {"type": "string", "title": "T"}}}
    )
    assert schema == {"type": "object", "properties": {"title": {"type": "string"}}}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_read(path: Path) -> None:
    obj = yaml.safe_load(path.read_text())
    obj["metadata"] |= {"namespace": "default", "uid": "u"}
    assert SLMService.from_object(obj).name == obj["metadata"]["name"]
