"""slmctl as a user meets it: output, refusals with remedies, exit codes."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import kubeconfigs
from cli_builders import found, object_of, searching
from cli_world import Cluster, slmctl
from slm_operator.api.status import SLMServiceStatus
from slm_operator.cli.app import app
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Kube, Objects

REPOSITORY = Path(__file__).resolve().parents[2]


def test_get_lists_services(monkeypatch: pytest.MonkeyPatch) -> None:
    result = slmctl(monkeypatch, Cluster(object_of(found())), "get")
    assert result.exit_code == 0
    assert "chat" in result.stdout
    assert "simulated" in result.stdout
    assert "10,642" in result.stdout


def test_get_in_an_empty_namespace_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    result = slmctl(monkeypatch, Cluster(), "get")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "no SLMService in namespace default" in result.stderr


def test_json_is_one_document(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = object_of(found())
    listed = slmctl(monkeypatch, Cluster(stored), "get", "-o", "json")
    one = slmctl(monkeypatch, Cluster(stored), "get", "chat", "-o", "json")
    assert json.loads(listed.stdout) == {"items": [stored]}
    assert json.loads(one.stdout) == stored


def test_points_shows_table_picture_and_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    result = slmctl(monkeypatch, Cluster(object_of(found())), "points", "chat")
    assert result.exit_code == 0
    for part in ("10,642 ± 21", "J/output token", "◆ chosen", "is Pareto-optimal", "simulated"):
        assert part in result.stdout


def test_points_as_json_holds_what_the_status_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    result = slmctl(monkeypatch, Cluster(object_of(found())), "points", "chat", "-o", "json")
    document = json.loads(result.stdout)
    assert document["simulated"] is True
    assert document["recommendedReplicasPerPack"] == 2
    assert [p["replicasPerPack"] for p in document["points"] if p["chosen"]] == [2]


def test_points_before_the_first_says_what_is_being_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = slmctl(monkeypatch, Cluster(object_of(searching())), "points", "chat")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "no point of chat has been measured yet: measuring 1 replica x 256" in result.stderr


def test_points_of_a_service_that_no_operator_saw_asks_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = slmctl(monkeypatch, Cluster(object_of(SLMServiceStatus())), "points", "chat")
    assert result.exit_code == 1
    assert "the operator has not seen this service yet" in result.stderr


@pytest.mark.parametrize(
    ("cluster", "said"),
    [
        (Cluster(object_of(found(), name="chat")), "did you mean chat?"),
        (Cluster(object_of(found(), name="another")), "there are another"),
        (Cluster(), "there is none; create one with `kubectl apply`"),
        (
            Cluster(refusal=KubeError(404, "NotFound", "the server could not find it")),
            "does not know SLMServices (serving.slm.dev): install the operator,",
        ),
        (
            Cluster(refusal=KubeError(0, "Unreachable", "the API server does not answer")),
            "check that the cluster runs and that KUBECONFIG or --kubeconfig names it",
        ),
        (Cluster(refusal=KubeError(401, "Unauthorized", "Unauthorized")), "renew the kubeconfig"),
        (Cluster(refusal=KubeError(403, "Forbidden", "no")), "ask for the right to get and list"),
    ],
)
def test_a_refusal_is_one_line_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, cluster: Cluster, said: str
) -> None:
    for command in ("get", "points", "explain"):
        result = slmctl(monkeypatch, cluster, command, "chatt")
        assert result.exit_code == 1
        assert result.stdout == ""
        assert said in result.stderr
        assert result.stderr.count("\n") == 1


def test_an_object_of_a_newer_release_names_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = object_of(found())
    stored["spec"] = {"model": {"uri": "hf://a/b"}, "engine": {"kind": "Newer"}}
    result = slmctl(monkeypatch, Cluster(stored), "get", "chat")
    assert result.exit_code == 1
    assert "does not fit this slmctl (spec.engine.kind: " in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("points",),
        ("explain",),
        ("nonsense",),
        ("get", "-o", "yaml"),
        ("get", "--kubeconfig", "/no/such/file"),
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 2


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "",
        "[",
        "- a",
        "current-context: ''",
        "{current-context: a, contexts: [{name: a, context: text}]}",
        "{current-context: a, contexts: [{context: {}}]}",
    ],
    ids=["empty", "nothing", "bad", "list", "no context", "odd context", "nameless context"],
)
def test_an_unusable_kubeconfig_is_named(tmp_path: Path, text: str) -> None:
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text(text)
    result = CliRunner().invoke(app, ["get", "--kubeconfig", str(kubeconfig)])
    assert result.exit_code == 1
    assert "set KUBECONFIG to a kubeconfig file" in result.stderr


def test_the_namespace_is_that_of_the_kubeconfigs_context(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kubeconfig = kubeconfigs.written(tmp_path / "config", namespace="team")

    async def connect(kubeconfig: Path | None = None) -> Cluster:
        return Cluster()

    monkeypatch.setattr(Kube, "connect", connect)
    result = CliRunner().invoke(app, ["get", "chat", "--kubeconfig", str(kubeconfig)])
    assert "namespace team has no SLMService chat" in result.stderr


def test_the_demo_needs_haproxy_and_starts_nothing_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 1
    assert "install haproxy" in result.stderr


def test_the_demo_of_an_installed_package_asks_for_a_checkout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import slm_operator.cli as package

    monkeypatch.delattr(package, "demo", raising=False)
    for name in [n for n in sys.modules if n.startswith(("slm_dev", "slm_operator.cli.demo"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "slm_dev", None)
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 1
    assert "clone the project's repository" in result.stderr


def test_a_cluster_without_the_crd_gets_a_remedy_that_exists(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def unknown(*_: object, **__: object) -> Objects:
        raise KubeError(404, "NotFound", "the server could not find the requested resource")

    cluster = Cluster()
    cluster.list = unknown  # type: ignore[method-assign]
    result = slmctl(monkeypatch, cluster, "get")
    assert result.exit_code != 0
    remedy = " ".join(result.stderr.split())
    files = re.findall(r"-f (\S+?)[ `]", remedy)
    assert files == ["crds/", "charts/slm-operator/files/operator-rbac.yaml"]
    assert all((REPOSITORY / file).exists() for file in files)


def pack_pod(name: str = "chat-pack-0", service: str = "chat", **status: Any) -> dict[str, Any]:
    labels = {"app.kubernetes.io/instance": service, "serving.slm.dev/pack": name[-1]}
    running = {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "containerStatuses": [{"started": True, "state": {"running": {}}}],
    }
    return {"metadata": {"name": name, "uid": name, "labels": labels}, "status": running | status}


class PodsToo(Cluster):
    """A service with packs, whose Pods answer with ``metrics`` and have written ``lines``."""

    def __init__(
        self, *pods: Mapping[str, Any], metrics: str = "", lines: Sequence[str] = ()
    ) -> None:
        super().__init__(object_of(found()))
        self._pods = pods
        self._metrics, self._lines = metrics, lines
        self.tails: list[int] = []

    async def list(
        self, api_version: str, kind: str, namespace: str = "", *, labels: str = ""
    ) -> Objects:
        return list(self._pods) if kind == "Pod" else await super().list(api_version, kind)

    async def pod_get(self, namespace: str, pod: str, port: int, where: str) -> str:
        assert (namespace, port, where) == ("default", 8080, "/metrics")
        if not self._metrics:
            no = 'pods "chat-pack-0" is forbidden: User "u" cannot get resource "pods/proxy"'
            raise KubeError(403, "Forbidden", no)
        return self._metrics

    async def log(
        self, namespace: str, pod: str, *, tail_lines: int, follow: bool = False
    ) -> AsyncIterator[str]:
        self.tails.append(tail_lines)
        for line in self._lines:
            yield line


def test_history_tells_decisions_and_their_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = object_of(found())
    shown = slmctl(monkeypatch, Cluster(stored), "history", "chat")
    assert shown.exit_code == 0
    assert "KneeFound" in shown.stdout
    assert "docs/explaining.md" in shown.stdout
    document = slmctl(monkeypatch, Cluster(stored), "history", "chat", "-o", "json")
    history = json.loads(document.stdout)["history"]
    ids = [entry.pop("id") for entry in history]
    assert history == stored["status"]["history"]
    assert all(known_as in shown.stdout for known_as in ids)


def test_history_before_the_first_decision_says_what_is_awaited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = slmctl(monkeypatch, Cluster(object_of(searching())), "history", "chat")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing has been decided for chat yet: measuring 1 replica" in result.stderr


def test_top_shows_each_pack_and_why_one_has_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    full = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]
    waiting = pack_pod("chat-pack-1", phase="Pending", containerStatuses=[], conditions=full)
    metrics = "slm_pack_power_watts 443.0\nslm_pack_replicas_in_rotation 2.0\n"
    cluster = PodsToo(waiting, pack_pod(), metrics=metrics)
    result = slmctl(monkeypatch, cluster, "top", "chat", "--once", "--every", "1", "-o", "json")
    first, second = json.loads(result.stdout)["packs"]
    assert (first["pack"], first["powerWatts"], first["replicasInRotation"]) == (
        "chat-pack-0", 443, 2,
    )  # fmt: skip
    assert first["outputTokensPerSecond"] is None, "no counter, no rate"
    assert (second["pack"], second["silent"]) == ("chat-pack-1", "Unschedulable")
    assert first["simulated"] is True


def test_top_and_logs_name_the_right_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    result = slmctl(monkeypatch, PodsToo(pack_pod()), "top", "--once", "--every", "1")
    assert result.exit_code == 1
    assert "ask for that right; logs reads pods and pods/log, top pods/proxy" in result.stderr


@pytest.mark.parametrize("command", ["top", "logs"])
def test_a_service_without_packs_is_pointed_out(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    result = slmctl(monkeypatch, PodsToo(), command, "chat")
    assert result.exit_code == 1
    assert "SLMService chat has no pack yet: `slmctl get chat` tells why" in result.stderr


def test_logs_of_one_replica_of_one_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    about = [json.dumps({"time": "t", "message": f"m{i}", "replica": i}) for i in range(3)]
    cluster = PodsToo(pack_pod(), pack_pod("chat-pack-1"), lines=about)
    asked = ("logs", "chat", "--pack", "1", "--replica", "2", "--tail", "7")
    result = slmctl(monkeypatch, cluster, *asked)
    assert result.stdout == "t  chat-pack-1 replica 2          m2\n"
    assert cluster.tails == [7]
    missing = slmctl(monkeypatch, cluster, "logs", "chat", "--pack", "5")
    assert "SLMService chat has no pack 5: there are 0, 1" in missing.stderr
