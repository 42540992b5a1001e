"""SLMServices of all kinds, drawn from the CRD's schema and from mutations of the examples.

The same number and seed give the same objects.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hypothesis
import yaml
from hypothesis import strategies as st

from slm_operator.api.crd import crd
from slm_operator.api.models import API_VERSION, KIND

Json = Any
Schema = Mapping[str, Any]

EXAMPLES = Path(__file__).parents[2] / "examples"
TEXTS: dict[str, tuple[str, ...]] = {
    "uri": (
        "hf://facebook/opt-1.3b",
        "hf://HuggingFaceTB/SmolLM2-135M-Instruct",
        "file:///models/opt-1.3b",
        "pvc://models",
        "pvc://models.team-a/opt/1.3b/",
        "oci://registry.example.com:5000/models/opt-1.3b:v1",
        "oci://registry.example.com/models/opt@sha256:" + "0" * 64,
        "file:///models/../etc",
        "pvc://models/..",
        "pvc:///opt",
        "oci://registry.example.com",
        "s3://bucket/opt",
        "hf://a",
    ),
    "args": (
        "--max-model-len=2048",
        "--dtype",
        "float16",
        "--port=1",
        "--served_model_name",
        "-O3",
    ),
    "memoryReserve": ("0", "4Gi", "512M", "4 GB", "-1Gi", "999999999999Ti"),
    "ttftP95": ("500ms", "0.5s", "0ms", "50"),
    "itlP95": ("50ms", "12.5ms", "1h"),
    "scaleDownStabilization": ("0s", "90s", "5m", "24h", "5 min"),
    "resourceName": ("nvidia.com/gpu", "amd.com/gpu", "example.com/" + "a" * 63, "gpu", "a..b/c"),
    "mountPath": ("/models", "/data/a b", "/tmp/x", "/dev", "models", "/a/../b"),  # noqa: S108
    "env.name": ("A", "HF_HOME", "SLM_X", "POD_IP", "1A", "A-B"),
    "volumes.name": ("models", "tmp", "data-1", "Data"),
    "key": ("token", "..", ".hidden", "nvidia.com/gpu", "a/b/c"),
}
"""What such a field may look like: without these few objects would get past the first rule."""
KEYS = ("team", "example.com/team", "app.kubernetes.io/name", "serving.slm.dev/pack", "-", "A/b")

noise = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.sampled_from([0, -1, 1, 2**31, 1.5, "", "0", "1", "true", " ", "ä", "\n", "x" * 5000])
    | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=4,
)


def spec_schema() -> Schema:
    (version,) = crd()["spec"]["versions"]
    found: Schema = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return found


def examples() -> list[Json]:
    paths = sorted(EXAMPLES.glob("*.yaml"))
    return [each for path in paths for each in yaml.safe_load_all(path.read_text()) if each]


def fitting(schema: Schema, path: tuple[str, ...] = ()) -> st.SearchStrategy[Json]:
    """Values of the schema's shape, and near the edges of its bounds. CEL rules are not looked at,
    so many are refused."""
    if schema.get("x-kubernetes-int-or-string"):
        return st.integers(0, 64) | st.sampled_from(
            ["500m", "16Gi", "1.5", "0", "4 GB", "-1", "1e3"]
        )
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "object":
            return _object(schema, path)
        case "array":
            most = min(schema.get("maxItems", 3), 3)
            return st.lists(fitting(schema["items"], path), max_size=most)
        case "integer":
            least, most = schema.get("minimum", 0), schema.get("maximum", 1_000_000)
            edges = [least, most, least - 1, most + 1]
            return (
                st.integers(least, most)
                | st.integers(least, min(most, least + 8))
                | (st.sampled_from(edges))
            )
        case "boolean":
            return st.booleans()
    return _text(schema, path)


def careful(schema: Schema, path: tuple[str, ...] = ()) -> st.SearchStrategy[Json]:
    """What a person who has read the documentation might write: in bounds, and of known form."""
    if schema.get("x-kubernetes-int-or-string"):
        return st.integers(0, 64) | st.sampled_from(["500m", "16Gi", "1.5"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "object" if "additionalProperties" in schema:
            return st.dictionaries(st.sampled_from(KEYS[:2]), st.just("a"), max_size=2)
        case "object":
            required = set(schema.get("required", ()))
            fields = {n: careful(e, (*path, n)) for n, e in schema["properties"].items()}
            return st.fixed_dictionaries(
                {n: each for n, each in fields.items() if n in required},
                optional={n: each for n, each in fields.items() if n not in required},
            )
        case "array":
            return st.lists(careful(schema["items"], path), max_size=2)
        case "integer":
            least = schema.get("minimum", 0)
            return st.integers(least, min(schema.get("maximum", least + 8), least + 8))
        case "boolean":
            return st.booleans()
    known = TEXTS.get(".".join(path[-2:])) or TEXTS.get(path[-1]) or ()
    if known:
        return st.sampled_from(known[: 1 + len(known) // 2])
    return st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)


def _merged(written: Json, drawn: Json, chosen: set[str]) -> Json:
    """An example with another model, and the ``chosen`` blocks if it leaves them out."""
    added = {name: drawn[name] for name in chosen & drawn.keys() - written.keys()}
    return {**copy.deepcopy(written), **added, "model": drawn["model"]}


def _object(schema: Schema, path: tuple[str, ...]) -> st.SearchStrategy[Json]:
    if "additionalProperties" in schema:
        value = fitting(schema["additionalProperties"], path)
        return st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=20), value, max_size=3)
    required = set(schema.get("required", ()))
    fields = {name: fitting(each, (*path, name)) for name, each in schema["properties"].items()}
    return st.fixed_dictionaries(
        {name: each for name, each in fields.items() if name in required},
        optional={name: each for name, each in fields.items() if name not in required},
    )


def _text(schema: Schema, path: tuple[str, ...]) -> st.SearchStrategy[str]:
    name = path[-1] if path else ""
    known = TEXTS.get(".".join(path[-2:])) or TEXTS.get(name) or ()
    most = schema.get("maxLength", 64)
    found = st.text(max_size=8) | st.sampled_from(["a", "chat", "x" * most, "x" * (most + 1)])
    if "pattern" in schema:
        matching = st.from_regex(schema["pattern"], fullmatch=True)
        found = matching.filter(lambda text: len(text) <= most) | found
    # Most of the time what a person would write.
    return st.one_of(*[st.sampled_from(known)] * 5, found) if known else found


@st.composite
def mutated(draw: st.DrawFn, objects: st.SearchStrategy[Json], schema: Schema) -> Json:
    """One of ``objects`` with up to three fields replaced, removed or added."""
    spec = copy.deepcopy(draw(objects))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(spec, schema, ()))
        if not places:
            break
        holder, key, here = draw(st.sampled_from(places))
        match draw(st.sampled_from(["noise", "other", "removed", "unknown"])):
            case "noise":
                holder[key] = draw(noise)
            case "other" if here is not None:
                holder[key] = draw(fitting(here, (str(key),)))
            case "removed":
                del holder[key]
            case _ if isinstance(holder, dict):
                holder[draw(st.sampled_from(["pack", "replicas", "Model", "x-y"]))] = draw(noise)
    return spec


def _places(value: Json, schema: Schema | None, path: tuple[str, ...]) -> Any:
    """Each field below ``value``: what holds it, its key, and its schema where that is known."""
    if isinstance(value, dict):
        for key, each in list(value.items()):
            here = ((schema or {}).get("properties") or {}).get(key)
            yield value, key, here
            yield from _places(each, here, (*path, key))
    elif isinstance(value, list):
        for number, each in enumerate(list(value)):
            here = (schema or {}).get("items")
            yield value, number, here
            yield from _places(each, here, path)


def objects() -> st.SearchStrategy[Json]:
    schema = spec_schema()
    drawn, written = fitting(schema), st.sampled_from([e["spec"] for e in examples()])
    likely = st.builds(
        _merged, written, careful(schema), st.sets(st.sampled_from(sorted(schema["properties"])))
    )
    spec = st.one_of(
        likely, likely, mutated(likely, schema), mutated(written, schema), mutated(drawn, schema),
        drawn, noise,
    )  # fmt: skip
    names = st.one_of(
        *[st.from_regex(r"[a-z][a-z0-9]{0,9}", fullmatch=True)] * 9,
        st.sampled_from(["A", "a.b", "1a", "a" * 51, "", "a-"]),
    )
    return st.builds(
        lambda name, spec: {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": name},
            "spec": spec,
        },
        names,
        spec,
    )


def cases(count: int, seed: int) -> list[Json]:
    """``count`` objects."""
    found: list[Json] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        phases=[hypothesis.Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(objects())
    def draw(obj: Json) -> None:
        found.append(obj)

    draw()
    return found[:count]
