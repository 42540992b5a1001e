"""The page of the agent's HTTP API: its paths, and the models of what is sent and answered."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import cast

from pydantic import BaseModel

from slm_dev.reference.attributes import attribute_docs
from slm_dev.reference.markdown import code, page, table
from slm_dev.reference.schema import Schema, bounds, default, kind
from slm_worker import server, wire
from slm_worker.planning import memory

PATHS = {
    "GET /v1/pack": "What the pack is: [PackState](#packstate).",
    "PUT /v1/pack/plan": "Takes a [Plan](#plan) and answers a [PackState](#packstate).",
    "GET /healthz": "200 while the agent's loop advances, else 503.",
    "GET /readyz": "200 when the pack can serve, else 503 with the reason.",
    "GET /metrics": "[Metrics](../metrics.md#pack) for Prometheus.",
}
STATUSES = (
    ("401", "`Unauthorized`", "the token is missing or another one"),
    ("404, 405", "`NotFound`", "there is no such path, or not with this method"),
    (
        "409",
        "`StaleGeneration`",
        "the plan is older than the accepted one, or another one under its "
        "generation: read the pack, then plan with a higher one",
    ),
    ("409", "`StaleLeader`", "a later leader than the sender has been heard of"),
    (
        "413, 422",
        "`InvalidPlan`",
        "no plan, too large a body, or a field out of its bounds; the "
        "message names field and value",
    ),
    ("422", "`DoesNotFit`", "the GPU's memory does not hold so many replicas; `max_replicas` fit"),
)


def agent_api() -> str:
    docs = attribute_docs(memory) | attribute_docs(wire)
    sent = _models(wire.Plan) | _models(wire.PackConfig)
    answered = {**_models(wire.PackState), **_models(wire.ApiError)}
    return page(
        "The agent's API",
        "Each pack's agent serves it on port "
        f"{wire.AGENT_PORT} of its Pod. The operator is its only writer; people look at it by "
        "`kubectl port-forward`, and by `slmctl top`.",
        "## Paths",
        table(("path", "token", ""), _paths()),
        "`Authorization: Bearer TOKEN` carries the token of the Secret `NAME-agent-token`. "
        f"`{wire.LEADER_EPOCH_HEADER}` names the leadership of an operator that was elected; once "
        "an agent has heard of one, it takes no plan of an older one.",
        "A refusal is an [ApiError](#apierror):",
        table(("status", "reason", "when"), STATUSES),
        "## What is sent",
        "Unknown fields are refused. PackConfig is not sent: the agent reads it from the variable "
        f"`{wire.CONFIG_VARIABLE}` at its start.",
        *_sections(sent, docs, defaults=True),
        "## What is answered",
        "A reader has to ignore fields that it does not know: newer agents may answer more.",
        *_sections({n: s for n, s in answered.items() if n not in sent}, docs, defaults=False),
    )


def _paths() -> Iterator[tuple[str, ...]]:
    """Raises KeyError for a path of the server without words here."""
    routes = server.make_app(cast(server.PackAgent, None), lambda: "").router.routes()
    for route in routes:
        if route.method == "HEAD" or route.resource is None:
            continue
        path = route.resource.canonical
        name = f"{route.method} {path}"
        yield code(name), "" if path in server.PUBLIC_PATHS else "needed", PATHS[name]


def _models(root: type[BaseModel]) -> dict[str, Schema]:
    """The model and all that it is made of, by name."""
    schema: Schema = root.model_json_schema(
        mode="serialization" if root in _REPORTS else "validation"
    )
    return {root.__name__: schema, **schema.get("$defs", {})}


_REPORTS = (wire.PackState, wire.ApiError)


def _sections(
    models: dict[str, Schema], docs: dict[str, dict[str, str]], *, defaults: bool
) -> Iterator[str]:
    for name, schema in models.items():
        model = getattr(wire, name, None) or getattr(memory, name)
        about = _words(inspect.cleandoc(model.__doc__ or ""))
        yield f"### {name}" + (f"\n\n{about}" if _has_words_of_its_own(model) else "")
        if "enum" in schema:
            rows = ((code(str(m.value)), docs[name].get(m.name, "")) for m in model)
            yield table(("value", ""), rows)
            continue
        yield table(
            ("field", "type", "default", "bounds", "") if defaults else ("field", "type", ""),
            _rows(schema, docs.get(name, {}), defaults),
        )


def _words(docstring: str) -> str:
    """As Markdown, of what JSON has."""
    plain = re.sub(r":class:`(\w+)`", r"\1", docstring).replace("``", "`")
    return re.sub(r"\bNone\b", "null", " ".join(plain.split()))


def _has_words_of_its_own(model: type) -> bool:
    return bool(vars(model).get("__doc__"))


def _rows(schema: Schema, docs: dict[str, str], defaults: bool) -> Iterator[tuple[str, ...]]:
    for name, field in schema.get("properties", {}).items():
        said = _words(docs.get(name, ""))
        of = _type(field)
        if not defaults:
            yield code(name), of, said
            continue
        given = "required" if name in schema.get("required", ()) else default(field)
        # The words of an enumeration are its type here.
        plain = [{k: v for k, v in each.items() if k != "enum"} for each in _options(field)]
        yield code(name), of, given, "; ".join(filter(None, map(bounds, plain))), said


def _options(field: Schema) -> list[Schema]:
    return [each for each in field.get("anyOf", [field]) if each.get("type") != "null"]


def _type(field: Schema) -> str:
    names = [_named(each) for each in _options(field)]
    nullable = any(each.get("type") == "null" for each in field.get("anyOf", ()))
    return " or ".join([*names, "null"] if nullable else names)


def _named(schema: Schema) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if schema.get("type") == "array":
        return f"list of {_named(schema['items'])}" if "items" in schema else "list"
    if "const" in schema or "enum" in schema:
        return ", ".join(code(str(v)) for v in schema.get("enum", [schema.get("const")]))
    return kind(schema)
