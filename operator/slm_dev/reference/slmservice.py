"""The page of SLMService: every field of spec and status, and the rules beyond types."""

from __future__ import annotations

from collections.abc import Iterator

from slm_dev.reference.markdown import block, cell, code, page, table
from slm_dev.reference.schema import Schema, bounds, default, fields, kind
from slm_operator.api.crd import crd
from slm_operator.api.models import GROUP, KIND, VERSION
from slm_operator.api.rules import VALIDATIONS, Rule


def slmservice() -> str:
    schema: Schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    spec, status = (schema["properties"][name] for name in ("spec", "status"))
    return page(
        KIND,
        f"`apiVersion: {GROUP}/{VERSION}`, `kind: {KIND}`, short name `slm`, in a namespace. "
        "`kubectl explain slm.spec` shows the same. [What versions may change]"
        "(../api-versions.md); [what a broken object gets to hear](../conditions.md#the-spec).",
        "## spec",
        "[] stands for each entry of a list. A field without a default may be left out, unless it "
        "says required.",
        table(("field", "type", "default", "bounds", ""), _spec_rows(spec)),
        "## Rules",
        "What the API server refuses besides: the message, in which … stands for a value, and the "
        "condition in CEL that the object breaks. Messages that do not name their field are "
        "preceded by it.",
        *(
            f"### {path}\n\n" + "\n\n".join(_rule(rule) for rule in rules)
            for path, rules in _rules("", schema)
        ),
        "## status",
        "Written by the operator alone. [Each reason of a condition](../conditions.md), [each rule "
        "of a decision](../explaining.md#the-rules).",
        table(("field", "type", ""), _status_rows(status)),
    )


def _spec_rows(spec: Schema) -> Iterator[tuple[str, ...]]:
    for field in fields("spec", spec):
        given = "required" if field.required else default(field.schema)
        said = field.schema.get("description", "")
        yield code(field.path), kind(field.schema), given, bounds(field.schema), said


def _status_rows(status: Schema) -> Iterator[tuple[str, ...]]:
    for field in fields("status", status):
        words = [", ".join(map(code, field.schema["enum"]))] if "enum" in field.schema else []
        said = ". ".join([*words, field.schema.get("description", "")])
        yield code(field.path), kind(field.schema), said


def _rules(path: str, schema: Schema) -> Iterator[tuple[str, list[Rule]]]:
    """By the field that they are attached to."""
    if VALIDATIONS in schema:
        yield path or "The whole object", schema[VALIDATIONS]
    for name, child in schema.get("properties", {}).items():
        yield from _rules(f"{path}.{name}".lstrip("."), child)
    for key, mark in (("items", "[]"), ("additionalProperties", ".*")):
        if isinstance(schema.get(key), dict):
            yield from _rules(f"{path}{mark}", schema[key])


def _rule(rule: Rule) -> str:
    return f"{cell(message(rule['messageExpression']))}\n\n{block(rule['rule'])}"


def message(expression: str) -> str:
    """A CEL sum of texts in words: what is no literal becomes …"""
    return "".join(
        term[1:-1].replace('\\"', '"') if term[0] == term[-1] and term[0] in "'\"" else "…"
        for term in _terms(expression)
    )


def _terms(expression: str) -> Iterator[str]:
    """Of a sum, split at each + outside of quotes and brackets."""
    term, quote, depth, escaped = "", "", 0, False
    for letter in expression:
        if not quote and not depth and letter == "+":
            yield term.strip()
            term = ""
            continue
        term += letter
        if escaped:
            escaped = False
        elif quote:
            escaped = letter == "\\"
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            depth += (letter in "([") - (letter in ")]")
    yield term.strip()
