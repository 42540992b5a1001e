"""Every alert fires when it should and is silent when it should be, judged by promtool."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from alert_cases import CASES, Case
from slm_dev import monitoring
from slm_dev.prometheus import Programs


@dataclass
class Suite:
    """A promtool test file, one test each case."""

    tests: list[dict[str, Any]] = field(default_factory=list)

    def add(self, case: Case) -> None:
        asked = f'ALERTS{{alertname="{case.alert}",alertstate="firing"}}'
        moments = (
            [case.before_minutes, case.at_minutes] if case.before_minutes else [case.at_minutes]
        )
        expected = []
        for moment in moments:
            samples = []
            if case.fires is not None and moment == case.at_minutes:
                labels = {
                    "alertname": case.alert,
                    "alertstate": "firing",
                    "severity": monitoring.alert(case.alert).severity,
                } | dict(case.fires)
                named = ",".join(f'{k}="{v}"' for k, v in sorted(labels.items()))
                samples = [{"labels": f"ALERTS{{{named}}}", "value": 1}]
            expected.append({"expr": asked, "eval_time": f"{moment}m", "exp_samples": samples})
        given = [{"series": name, "values": values} for name, values in case.given]
        self.tests.append(
            {
                "name": f"{case.alert}: {case.name}",
                "interval": "1m",
                "input_series": given,
                "promql_expr_test": expected,
            }
        )


def test_alerts_fire_when_they_should_and_not_otherwise(programs: Programs, tmp_path: Path) -> None:
    suite = Suite()
    for case in CASES:
        suite.add(case)
    file = tmp_path / "tests.yaml"
    rules = [str(path) for path in monitoring.RULE_FILES]
    file.write_text(
        json.dumps({"rule_files": rules, "evaluation_interval": "1m", "tests": suite.tests})
    )
    done = subprocess.run(
        [programs.promtool, "test", "rules", file], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_the_rules(programs: Programs) -> None:
    done = subprocess.run(
        [programs.promtool, "check", "rules", "--lint-fatal", *monitoring.RULE_FILES],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", [alert.name for alert in monitoring.ALERTS])
def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_silent(name: str) -> None:
    mine = [case for case in CASES if case.alert == name]
    assert any(case.fires is not None for case in mine)
    assert any(case.fires is None for case in mine)


@pytest.mark.parametrize("alert", monitoring.ALERTS, ids=lambda alert: alert.name)
def test_what_an_alert_says_names_only_labels_that_it_has(alert: monitoring.Alert) -> None:
    named = set(re.findall(r"\$labels\.(\w+)", alert.summary + alert.description))
    branches = [set(case.fires or {}) for case in CASES if case.alert == alert.name and case.fires]
    assert named <= set().union(*branches) | {"severity"}


def test_rule_files_are_yaml_with_groups_alone() -> None:
    for path in monitoring.RULE_FILES:
        assert list(yaml.safe_load(path.read_text())) == ["groups"]


@pytest.mark.parametrize("alert", monitoring.ALERTS, ids=lambda alert: alert.name)
def test_each_alert_leads_to_its_part_of_the_runbook(alert: monitoring.Alert) -> None:
    page, anchor = alert.runbook.split("#")
    titles = re.findall(r"^### (\w+)$", (monitoring.REPOSITORY / page).read_text(), re.MULTILINE)
    assert anchor == alert.name.lower()
    assert alert.name in titles


def test_the_documentation_lists_the_alerts_as_they_are() -> None:
    page = (monitoring.REPOSITORY / "docs/monitoring.md").read_text()
    rows = re.findall(r"^\| \[(\w+)\]\((\S+)\) \| (\w+) \| ([\w ]+) \|", page, re.MULTILINE)
    assert sorted(rows) == sorted(
        (one.name, one.runbook.removeprefix("docs/"), one.severity, one.lasts or "at once")
        for one in monitoring.ALERTS
    )
