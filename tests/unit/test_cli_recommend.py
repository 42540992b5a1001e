"""slmctl recommend: what it advises, what it writes, and when it refuses to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cli_builders import found, object_of, searching
from cli_world import Cluster, slmctl
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Object
from slm_operator.pareto.objective import Objective
from slm_operator.pareto.search import SearchSpace

FIXED_BATCH = SearchSpace(1, 4, 256, batch_is_free=False, objective=Objective())


class Writable(Cluster):
    """Records what is applied; ``conflict``: the fields are another manager's."""

    def __init__(self, *objects: Any, conflict: str = "") -> None:
        super().__init__(*objects)
        self.conflict = conflict
        self.applied: list[tuple[str, bool, Object]] = []

    async def apply(self, obj: Object, *, force: bool = False, manager: str = "") -> Object:
        if self.conflict and not force:
            raise KubeError(409, "Conflict", self.conflict)
        self.applied.append((manager, force, obj))
        return obj


def advised(replicas: int | None = 1, mode: str = "Recommend", **engine: Any) -> dict[str, Any]:
    obj: dict[str, Any] = object_of(found(FIXED_BATCH))
    obj["spec"]["autoscaling"] = {"mode": mode}
    obj["spec"]["engine"] |= engine
    if replicas is not None:
        obj["spec"]["replicasPerPack"] = replicas
    return obj


def test_the_advice_stands_beside_what_runs_with_both_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = slmctl(monkeypatch, Writable(advised()), "recommend", "chat")
    assert result.exit_code == 0
    said = " ".join(result.stdout.split())
    assert said.startswith("2 replicas x 256 is recommended: ")
    assert "1 replica x 256 runs. Output tokens/s: 7,887 now, 10,642 then (+34.9 %)" in said
    assert "W: 335 and 443; J a token: 0.0425 and 0.0416 (-2.0 %)" in said
    assert "The figures are simulated" in said
    assert "spec: replicasPerPack: 2 engine: maxNumSeqs: 256" in said


def test_without_apply_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Writable(advised())
    slmctl(monkeypatch, cluster, "recommend", "chat")
    assert cluster.applied == []


def test_apply_writes_count_and_batch_as_a_manager_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Writable(advised())
    result = slmctl(monkeypatch, cluster, "recommend", "chat", "--apply")
    assert result.exit_code == 0
    ((manager, force, obj),) = cluster.applied
    assert (manager, force) == ("slmctl-recommend", False)
    assert obj["spec"] == {"replicasPerPack": 2, "engine": {"maxNumSeqs": 256}}
    assert obj["metadata"] == {"name": "chat", "namespace": "default", "uid": "u"}
    assert "applied to default/chat: 2 replicas x 256 on each GPU" in result.stderr


def test_what_runs_already_is_not_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Writable(advised(2))
    result = slmctl(monkeypatch, cluster, "recommend", "chat", "--apply")
    assert result.exit_code == 0
    assert cluster.applied == []
    assert "It is what runs." in result.stdout
    assert "nothing to apply" in result.stderr


def test_fields_of_another_owner_are_taken_only_by_force(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Writable(advised(), conflict='conflict with "argocd": .spec.replicasPerPack')
    refused = slmctl(monkeypatch, cluster, "recommend", "chat", "--apply")
    assert refused.exit_code == 1
    assert 'conflict with "argocd"' in refused.stderr
    assert "change the manifest of whoever owns these fields" in refused.stderr
    assert cluster.applied == []
    forced = slmctl(monkeypatch, cluster, "recommend", "chat", "--apply", "--force")
    assert forced.exit_code == 0
    assert [force for _, force, _ in cluster.applied] == [True]


def test_in_mode_auto_there_is_nothing_to_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    result = slmctl(monkeypatch, Writable(advised(None, "Auto")), "recommend", "chat", "--apply")
    assert result.exit_code == 1
    assert "chat is in mode Auto, where the operator runs what it finds" in result.stderr


def test_before_the_search_has_ended_it_says_where_that_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    obj = advised() | {"status": searching().to_object()}
    result = slmctl(monkeypatch, Writable(obj), "recommend", "chat", "--apply")
    assert result.exit_code == 1
    assert "nothing can be recommended for chat yet: measuring 1 replica x 256" in result.stderr


def test_json_holds_both_points_and_the_part_of_the_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    result = slmctl(monkeypatch, Writable(advised()), "recommend", "chat", "-o", "json")
    document = json.loads(result.stdout)
    assert document["recommended"]["replicasPerPack"] == 2
    assert document["runs"]["measured"]["replicasPerPack"] == 1
    assert (document["runsAlready"], document["simulated"]) == (False, True)
    assert document["spec"] == {"replicasPerPack": 2, "engine": {"maxNumSeqs": 256}}


def test_of_a_layout_that_was_not_measured_nothing_is_claimed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = slmctl(monkeypatch, Writable(advised(7)), "recommend", "chat")
    assert "7 replicas x 256 runs, of which nothing was measured." in result.stdout
