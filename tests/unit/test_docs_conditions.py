"""Every reason that the code can give stands in the documentation."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from slm_operator.decide.followers import PLACE_TROUBLES

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTED = set(re.findall(r"`([A-Z][A-Za-z]+)`", (REPOSITORY / "docs/conditions.md").read_text()))
SAYS_A_REASON = {
    # callable: position of the reason among its arguments
    "Said": 2,
    "Trouble": 0,
    "_cause": 0,
    "Overdue": 0,
    "ReplicaError": 0,
    "_would_not": 0,
    "Measuring": 0,
    "AgentError": 0,
    "ModelError": 0,
    "report": 0,
    "EngineFailure": 0,
    "Diagnosis": 1,
    "_Meaning": 1,
}
NEVER_SHOWN = {
    "Settling",  # the search's phase is shown instead
    "WarmingUp",
    "Measuring",
}


def reasons_in(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        place = SAYS_A_REASON.get(name)
        if place is None or len(node.args) <= place:
            continue
        reason = node.args[place]
        if isinstance(reason, ast.Constant) and isinstance(reason.value, str):
            found.add(reason.value)
    return found


def test_every_reason_in_the_code_is_documented() -> None:
    sources = [
        *(REPOSITORY / "operator/slm_operator").rglob("*.py"),
        *(REPOSITORY / "worker/slm_worker").rglob("*.py"),
    ]
    found = set().union(*(reasons_in(path) for path in sources))
    assert len(found) > 20
    assert found - NEVER_SHOWN - DOCUMENTED == set()


def test_every_trouble_of_a_place_is_documented() -> None:
    assert PLACE_TROUBLES <= DOCUMENTED
