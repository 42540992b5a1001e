"""slmctl profile as a user meets it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import Result

from cli_world import slmctl
from profile_builders import learned
from slm_operator.cluster.connection import KubeError
from slm_operator.decide.profile_record import Profile, encode


class Cluster:
    def __init__(self, data: dict[str, str] | None, refusal: KubeError | None = None) -> None:
        self.data = data
        self.refusal = refusal
        self.patches: list[Any] = []

    async def get(self, api_version: str, kind: str, name: str, namespace: str = "") -> Any:
        if self.refusal is not None:
            raise self.refusal
        if self.data is None:
            raise KubeError(404, "NotFound", name)
        return {"data": self.data}

    async def merge(self, obj: Any, patch: Any) -> Any:
        self.patches.append((obj["metadata"], patch))

    async def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def profile() -> Profile:
    return learned()


def asked(monkeypatch: pytest.MonkeyPatch, cluster: Cluster, *arguments: str) -> Result:
    return slmctl(monkeypatch, cluster, "profile", *arguments, namespace="team-a")


def test_ls_lists_what_can_be_used_and_says_what_cannot(
    monkeypatch: pytest.MonkeyPatch, profile: Profile
) -> None:
    cluster = Cluster({profile.key: encode(profile), "zz": "{"})
    result = asked(monkeypatch, cluster, "ls")
    assert result.exit_code == 0
    _, first, second = result.output.splitlines()
    assert first.split()[:2] == [profile.key, "hf://facebook/opt-1.3b"]
    assert "128/256" in first and "2 x 256" in first and "chat" in first
    assert second.startswith("zz") and "unusable: the text: Invalid JSON" in second
    document = json.loads(asked(monkeypatch, cluster, "ls", "-o", "json").stdout)
    assert [sorted(item) for item in document["items"]] == [["name", "profile"], ["fault", "name"]]


def test_ls_of_nothing_says_where_profiles_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    result = asked(monkeypatch, Cluster(None), "ls")
    assert result.exit_code == 0
    assert "no profile in namespace team-a: a search that ends leaves one" in result.output


def test_show_by_how_a_name_begins(monkeypatch: pytest.MonkeyPatch, profile: Profile) -> None:
    cluster = Cluster({profile.key: encode(profile), "zz": "{"})
    result = asked(monkeypatch, cluster, "show", profile.key[:6])
    assert result.exit_code == 0, result.output
    assert f"team-a/{profile.key}" in result.output
    assert "Measured points (simulated)" in result.output
    assert "10,642" in result.output
    document = json.loads(asked(monkeypatch, cluster, "show", profile.key, "-o", "json").stdout)
    assert document["profile"] == json.loads(encode(profile))


def test_rm_removes_one_entry(monkeypatch: pytest.MonkeyPatch, profile: Profile) -> None:
    cluster = Cluster({profile.key: encode(profile), "zz": "{"})
    result = asked(monkeypatch, cluster, "rm", "zz")
    assert result.exit_code == 0
    assert cluster.patches == [
        ({"name": "slm-profiles", "namespace": "team-a"}, {"data": {"zz": None}})
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "nothing"), "namespace team-a has no profile nothing: there are a1, a2"),
        (("rm", "a"), "a is how several profiles begin: a1, a2"),
        (("show", "a1"), "profile a1 cannot be used, and services ignore it: the text:"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    result = asked(monkeypatch, Cluster({"a1": "{", "a2": "{"}), *arguments)
    assert result.exit_code == 1
    assert words in result.output


def test_a_missing_right_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = KubeError(403, "Forbidden", 'configmaps "slm-profiles" is forbidden')
    result = asked(monkeypatch, Cluster(None, refusal), "ls")
    assert result.exit_code == 1
    assert "ask for that right on the ConfigMap slm-profiles" in result.output
