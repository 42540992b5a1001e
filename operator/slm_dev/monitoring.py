"""What the chart brings for monitoring: alerts, recorded series, and the queries of dashboards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
