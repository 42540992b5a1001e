"""The monitors, rules and dashboards that the chart brings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from helm_rig import ACTIVATOR, CHART, MONITORING, RELEASE, refusal, render


@pytest.mark.parametrize("value", ["serviceMonitor", "podMonitor", "rules"])
def test_monitors_need_a_cluster_that_knows_them(value: str) -> None:
    said = refusal({"monitoring": {value: {"enabled": True}}})
    assert f"monitoring.{value}.enabled is true, but the cluster does not know" in said
    assert "monitoring.coreos.com/v1" in said


def test_monitors_find_what_is_there() -> None:
    labels = {"release": "prometheus"}
    monitor = {"enabled": True, "interval": "5s", "labels": labels}
    values = {"monitoring": {"serviceMonitor": monitor, "podMonitor": monitor}}
    found = render(values, *MONITORING)
    for name, service in ((RELEASE, f"{RELEASE}-metrics"), (ACTIVATOR, ACTIVATOR)):
        spec = found.one("ServiceMonitor", name)["spec"]
        target = found.one("Service", service)
        wanted = spec["selector"]["matchLabels"].items()
        assert wanted <= target["metadata"]["labels"].items()
        (endpoint,) = spec["endpoints"]
        assert endpoint["interval"] == "5s"
        assert endpoint["port"] in {each["name"] for each in target["spec"]["ports"]}
    packs = found.one("PodMonitor", f"{RELEASE}-packs")
    assert packs["metadata"]["labels"]["release"] == "prometheus"
    assert packs["spec"]["namespaceSelector"] == {"any": True}


def test_every_file_of_rules_and_dashboards_is_brought() -> None:
    values = {"monitoring": {"rules": {"enabled": True}, "dashboards": {"enabled": True}}}
    found = render(values, *MONITORING)
    rules = {
        f"{RELEASE}-{path.stem}": yaml.safe_load(path.read_text())
        for path in (CHART / "files" / "rules").glob("*.yaml")
    }
    assert rules
    assert {e["metadata"]["name"]: e["spec"] for e in found.of("PrometheusRule")} == rules
    dashboards = [path.name for path in (CHART / "files" / "dashboards").glob("*.json")]
    brought = [name for each in found.of("ConfigMap") for name in each["data"]]
    assert sorted(brought) == sorted(dashboards)


def test_alerts_lead_to_the_copy_of_the_docs_that_is_named() -> None:
    base = "https://git.example/slm-operator/blob/main/"
    rules = {"enabled": True, "runbookBase": base}
    found = render({"monitoring": {"rules": rules}}, *MONITORING)
    groups = [group for each in found.of("PrometheusRule") for group in each["spec"]["groups"]]
    links = {
        rule["alert"]: rule["annotations"]["runbook_url"]
        for group in groups
        for rule in group["rules"]
        if "alert" in rule
    }
    assert links
    assert links == {name: f"{base}docs/troubleshoot.md#{name.lower()}" for name in links}


@pytest.fixture
def with_files(tmp_path: Path) -> Path:
    """The chart with one file of rules and one dashboard."""
    chart = tmp_path / "chart"
    for path in CHART.rglob("*"):
        if path.is_file() and path.parent.name not in ("rules", "dashboards"):
            copy = chart / path.relative_to(CHART)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    for folder in ("rules", "dashboards"):
        (chart / "files" / folder).mkdir()
    (chart / "files/rules/packs.yaml").write_text(
        "groups:\n  - name: a\n    rules:\n      - alert: B\n        expr: up == 0\n"
        '        annotations: {summary: "{{ $labels.name }} is down"}\n'
    )
    (chart / "files/dashboards/service.json").write_text('{"title": "{{name}}"}\n')
    return chart


def test_rules_and_dashboards_are_passed_on_unread(with_files: Path) -> None:
    values = {
        "monitoring": {
            "rules": {"enabled": True, "labels": {"a": "b"}},
            "dashboards": {"enabled": True, "namespace": "grafana"},
        }
    }
    found = render(values, *MONITORING, chart=with_files)
    (rule,) = found.of("PrometheusRule")
    assert rule["metadata"]["name"] == f"{RELEASE}-packs"
    assert rule["metadata"]["labels"]["a"] == "b"
    (alert,) = rule["spec"]["groups"][0]["rules"]
    assert alert["annotations"]["summary"] == "{{ $labels.name }} is down"
    (dashboard,) = found.of("ConfigMap")
    assert dashboard["metadata"]["namespace"] == "grafana"
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(dashboard["data"]["service.json"]) == {"title": "{{name}}"}
