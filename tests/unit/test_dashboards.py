"""The dashboards are as their generator writes them, and read only series that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from slm_dev import monitoring
from slm_dev.dashboards import dashboards

PAGE = Path(__file__).resolve().parents[2] / "docs/metrics.md"
DOCUMENTED = set(re.findall(r"^\| `(slm_\w+)` \|", PAGE.read_text(), re.MULTILINE))
OF_A_HISTOGRAM = re.compile(r"_(bucket|count|sum)$")
EXPRESSIONS = {
    **{f"{q.dashboard}: {q.title}: {q.expression}": q.expression for q in monitoring.queries()},
    **{alert.name: alert.expression for alert in monitoring.ALERTS},
    **monitoring.RECORDED,
}


def test_the_chart_has_what_the_generator_writes() -> None:
    """`make dashboards` after a change."""
    assert {f.name: f.read_text() for f in monitoring.DASHBOARD_FILES} == dashboards()


@pytest.mark.parametrize("name", dashboards())
def test_panels_do_not_overlap(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(dashboards()[name])["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_every_expression_reads_documented_or_recorded_series(name: str) -> None:
    for metric, _ in monitoring.selectors(EXPRESSIONS[name]):
        known = OF_A_HISTOGRAM.sub("", metric) in DOCUMENTED or metric in DOCUMENTED
        assert known or metric in monitoring.RECORDED, metric


def test_selectors_and_groupings_of_an_expression() -> None:
    expression = 'sum by (name) (rate(slm_a_total{x="1", y!~"b|c"}[5m])) > on (pod) ns:slm_b'
    found = monitoring.selectors(expression.replace("ns:", "namespace_name:"))
    assert found == {
        ("slm_a_total", frozenset({"x", "y"})),
        ("namespace_name:slm_b", frozenset()),
    }
    assert monitoring.groupings(expression) == {"name", "pod"}
