"""What the chart brings for monitoring: alerts, recorded series, and the queries of dashboards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = REPOSITORY / "charts/slm-operator/files"
RULE_FILES = tuple(sorted((FILES / "rules").glob("*.yaml")))
DASHBOARD_FILES = tuple(sorted((FILES / "dashboards").glob("*.json")))


@dataclass(frozen=True)
class Alert:
    name: str
    expression: str
    lasts: str
    """For how long the expression has to hold; empty: not at all."""
    severity: str
    summary: str
    description: str
    runbook: str


@dataclass(frozen=True)
class Query:
    """A query of a dashboard."""

    dashboard: str
    title: str
    """Of its panel, variable or annotation."""
    expression: str


def _rules() -> Iterator[Mapping[str, Any]]:
    for path in RULE_FILES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


def _alert(rule: Mapping[str, Any]) -> Alert:
    said = rule["annotations"]
    return Alert(
        name=rule["alert"],
        expression=rule["expr"],
        lasts=rule.get("for", ""),
        severity=rule["labels"]["severity"],
        summary=said["summary"],
        description=said["description"],
        runbook=said["runbook_url"],
    )


ALERTS = tuple(_alert(rule) for rule in _rules() if "alert" in rule)
RECORDED: Mapping[str, str] = {r["record"]: r["expr"] for r in _rules() if "record" in r}
"""Expressions by the name of the series."""


def alert(name: str) -> Alert:
    """Raises StopIteration for one that there is not."""
    return next(one for one in ALERTS if one.name == name)


def queries() -> tuple[Query, ...]:
    """Every query of every dashboard, with Grafana's variables in it."""
    return tuple(one for path in DASHBOARD_FILES for one in _queries(path))


def _queries(path: Path) -> Iterator[Query]:
    shown = json.loads(path.read_text())
    for panel in shown["panels"]:
        for target in panel["targets"]:
            yield Query(path.name, panel["title"], target["expr"])
    for annotation in shown["annotations"]["list"]:
        yield Query(path.name, annotation["name"], annotation["expr"])
    for variable in shown["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
            if asked is None:
                raise ValueError(f"{path.name}: {variable['definition']} is no label_values()")
            yield Query(path.name, variable["name"], f"count by ({asked[2]}) ({asked[1]})")


def filled(expression: str, namespace: str, name: str, rate_interval: str = "1m") -> str:
    """With Grafana's variables replaced, as it would for one service."""
    for variable, value in (
        ("$__rate_interval", rate_interval),
        ("$namespace", namespace),
        ("$name", name),
    ):
        expression = expression.replace(variable, value)
    return expression


class Selector(NamedTuple):
    metric: str
    labels: frozenset[str]
    """Names of those that it selects by."""


_SELECTOR = re.compile(r"\b((?:namespace_name:)?slm_[\w:]+)(\{[^}]*\})?")
_GROUPING = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")


def selectors(expression: str) -> frozenset[Selector]:
    """The series that an expression reads, whatever it compares them with."""
    return frozenset(
        Selector(metric, frozenset(re.findall(r"(\w+)\s*[=!]", labels or "")))
        for metric, labels in _SELECTOR.findall(expression)
    )


def groupings(expression: str) -> frozenset[str]:
    """Labels that an expression groups or joins by."""
    named = ",".join(_GROUPING.findall(expression))
    return frozenset(re.findall(r"\w+", named))
