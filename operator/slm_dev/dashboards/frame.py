"""What Grafana needs besides queries, the same for all dashboards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SCHEMA_VERSION = 38
"""Grafana 10's; later ones migrate it."""
WIDTH = 24
HEIGHT = 8
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
RATE = "[$__rate_interval]"


@dataclass(frozen=True)
class Line:
    query: str
    legend: str


@dataclass(frozen=True)
class Panel:
    title: str
    unit: str
    """Grafana's name of it."""
    lines: tuple[Line, ...]
    says: str = ""
    kind: str = "timeseries"


def panel(title: str, unit: str, *lines: tuple[str, str], says: str = "") -> Panel:
    return Panel(title, unit, tuple(Line(*line) for line in lines), says)


def figure(title: str, unit: str, query: str, says: str = "") -> Panel:
    """One number."""
    return Panel(title, unit, (Line(query, ""),), says, "stat")


def variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
    }


DATASOURCE = {"name": "datasource", "type": "datasource", "query": "prometheus"}


def _panels(rows: Sequence[Sequence[Panel]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    top = 0
    for row in rows:
        height = HEIGHT // 2 if row[0].kind == "stat" else HEIGHT
        width = WIDTH // len(row)
        for column, one in enumerate(row):
            place = {"x": column * width, "y": top, "w": width, "h": height}
            found.append(_shown(one, len(found) + 1, place))
        top += height
    return found


def _shown(one: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + i), "expr": line.query, "legendFormat": line.legend}
        for i, line in enumerate(one.lines)
    ]
    return {
        "id": number,
        "type": one.kind,
        "title": one.title,
        "description": one.says,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": one.unit, "min": 0}, "overrides": []},
        "targets": targets,
    }


def dashboard(
    uid: str,
    title: str,
    rows: Sequence[Sequence[Panel]],
    variables: Sequence[dict[str, Any]] = (),
    annotations: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    return {
        "uid": uid,
        "title": title,
        "tags": ["slm-operator"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [DATASOURCE, *variables]},
        "annotations": {"list": list(annotations)},
        "panels": _panels(rows),
    }
