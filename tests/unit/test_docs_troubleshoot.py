"""docs/troubleshoot.md has something to check and to do for every condition and every alert."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/troubleshoot.md").read_text()
CONDITIONS = (ROOT / "docs/conditions.md").read_text()
RULES = sorted((ROOT / "charts/slm-operator/files/rules").glob("*.yaml"))


def alerts() -> dict[str, str]:
    """Where each alert sends whom it wakes."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    rules = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    return {rule["alert"]: rule["annotations"]["runbook_url"] for rule in rules}


def sections() -> dict[str, str]:
    parts = re.split(r"^### (\w+)$", PAGE.split("\n## By condition\n")[0], flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_alert_has_a_section_that_it_links_to_and_no_other_has() -> None:
    assert sorted(sections()) == sorted(alerts())
    assert alerts() == {name: f"docs/troubleshoot.md#{name.lower()}" for name in sections()}


def test_every_section_says_what_to_check_and_what_to_do() -> None:
    lacking = [n for n, text in sections().items() if "**Check**" not in text]
    assert lacking == []
    assert [n for n, text in sections().items() if "**Remedy**" not in text] == []


def test_every_condition_has_a_row_with_a_command() -> None:
    known = re.findall(r"^\| ([A-Z]\w+) \| ", CONDITIONS.split("\n## ")[0], re.MULTILINE)
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \| [^|]+ \|$", PAGE, re.MULTILINE))
    assert len(known) == 10
    assert sorted(rows) == sorted(known)
    assert [name for name, check in rows.items() if "`" not in check] == []
