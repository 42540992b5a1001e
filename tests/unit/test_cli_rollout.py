"""slmctl rollout as a user meets it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from builders import service
from cli_world import slmctl
from slm_operator.api.models import SLMService, SLMServiceSpec
from slm_operator.api.status import Condition, RolloutStatus, SLMServiceStatus, TemplateStatus
from slm_operator.cli.rollout_commands import replacing
from slm_operator.decide.rollout import template_fields

OLD = {"engine": {"kind": "Simulated", "maxNumSeqs": 256}}
NEW = {"engine": {"kind": "Simulated", "args": ["--broken"]}}


class Cluster:
    def __init__(self, found: SLMService) -> None:
        self.obj = {
            "metadata": {"name": found.name, "namespace": "default", "uid": "u1"},
            "spec": found.spec.model_dump(mode="json", by_alias=True, exclude_none=True),
            "status": found.status.to_object(),
        }
        self.patches: list[Any] = []

    async def get(self, api_version: str, kind: str, name: str, namespace: str = "") -> Any:
        return self.obj

    async def merge(self, obj: Any, patch: Any) -> Any:
        self.patches.append(patch)

    async def close(self) -> None:
        pass


def template(spec: dict[str, Any], name: str) -> TemplateStatus:
    return TemplateStatus(hash=name, spec=template_fields(service(spec)))


def rolled_back(spec: dict[str, Any] = NEW) -> SLMService:
    said = Condition(
        type="Progressing",
        status="False",
        reason="RolledBack",
        message="0.0500 J against 0.0416 J before",
        last_transition_time="2026-01-01T00:00:00Z",
        observed_generation=2,
    )
    rollout = RolloutStatus(
        phase="RolledBack",
        attempt="t-1",
        stable=template(OLD, "old"),
        previous=template({"engine": {"kind": "Simulated", "args": ["--older"]}}, "older"),
    )
    return service(spec, SLMServiceStatus(packs=2, rollout=rollout, conditions=(said,)))


def test_a_rollback_is_shown_and_ends_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    result = slmctl(monkeypatch, Cluster(rolled_back()), "rollout", "status", "chat")
    assert result.exit_code == 1
    assert "RolledBack (0 of 2 packs updated)" in result.stdout
    assert "0.0500 J against 0.0416 J" in result.stdout
    result = slmctl(monkeypatch, Cluster(rolled_back()), "rollout", "status", "chat", "-o", "json")
    assert json.loads(result.stdout)["reason"] == "RolledBack"


def test_a_service_that_was_never_seen_has_no_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    result = slmctl(monkeypatch, Cluster(service()), "rollout", "status", "chat")
    assert result.exit_code == 1
    assert "has not looked at chat yet" in result.stderr


def applied(monkeypatch: pytest.MonkeyPatch, found: SLMService) -> SLMServiceSpec:
    """The spec after an undo."""
    cluster = Cluster(found)
    assert slmctl(monkeypatch, cluster, "rollout", "undo", "chat").exit_code == 0
    return SLMServiceSpec.model_validate(merged(cluster.obj["spec"], cluster.patches[0]["spec"]))


def test_undo_goes_back_to_what_runs_after_a_rollback(monkeypatch: pytest.MonkeyPatch) -> None:
    assert applied(monkeypatch, rolled_back()).engine == service(OLD).spec.engine


def test_undo_goes_back_to_the_one_before_a_rollout_that_is_complete(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert applied(monkeypatch, rolled_back(OLD)).engine.args == ("--older",)


def test_without_another_template_there_is_nothing_to_undo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = slmctl(monkeypatch, Cluster(service()), "rollout", "undo", "chat")
    assert result.exit_code == 1
    assert "has run no other template" in result.stderr


@pytest.mark.parametrize(("command", "paused"), [("pause", True), ("resume", False)])
def test_pause_and_resume_write_one_field(
    monkeypatch: pytest.MonkeyPatch, command: str, paused: bool
) -> None:
    cluster = Cluster(rolled_back())
    assert slmctl(monkeypatch, cluster, "rollout", command, "chat").exit_code == 0
    assert cluster.patches == [{"spec": {"rollout": {"paused": paused}}}]


def test_a_patch_removes_what_the_wanted_has_not() -> None:
    assert replacing({"a": 1, "b": {"c": 1, "d": [1]}}, {"b": {"d": [2]}}) == {
        "a": None,
        "b": {"c": None, "d": [2]},
    }


def merged(found: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    base = found if isinstance(found, dict) else {}
    both = {
        k: merged(base.get(k), v) if k in patch else base[k] for k, v in {**base, **patch}.items()
    }
    return {k: v for k, v in both.items() if v is not None}
