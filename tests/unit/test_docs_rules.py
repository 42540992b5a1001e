"""Every rule of a decision stands in the documentation, and nothing else does."""

from __future__ import annotations

import re
from pathlib import Path

from slm_operator.pareto.rulings import Rule

PAGE = (Path(__file__).resolve().parents[2] / "docs/explaining.md").read_text()


def documented() -> list[str]:
    """The first cell of each row of the rules' tables."""
    _, _, rules = PAGE.partition("\n## The rules\n")
    rules, _, _ = rules.partition("\n## ")
    return re.findall(r"^\| `([A-Za-z]+)` \|", rules, re.MULTILINE)


def test_the_documented_rules_are_those_of_the_code() -> None:
    assert sorted(documented()) == sorted(rule.value for rule in Rule)


def test_every_rule_is_a_camel_case_word_that_the_status_can_hold() -> None:
    assert all(re.fullmatch(r"([A-Z][a-z]+)+", rule.value) for rule in Rule)
    assert max(len(rule.value) for rule in Rule) <= 64


def test_every_rule_is_given_somewhere() -> None:
    """A rule that no code gives would be told by nobody."""
    operator = Path(__file__).resolve().parents[2] / "operator/slm_operator"
    code = "".join(path.read_text() for path in operator.rglob("*.py") if path.name != "rulings.py")
    assert [rule.value for rule in Rule if f"Rule.{rule.name}" not in code] == []
