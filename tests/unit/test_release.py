"""Which commands install the product, before any of them runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm_dev.cluster import existing
from slm_dev.cluster.existing import ExistingClusterError, Target
from slm_dev.images import Image, Images
from slm_dev.release import CHART, Release, values_of

RELEASE = Release(Path("/p/helm"), Path("/k/config"))
HERE = Target("admin@here", "https://10.0.0.1:6443")
OF_KIND = Target("kind-try", "https://127.0.0.1:38123")


def image(target: str) -> Image:
    folder = Path("/cache")
    name = f"localhost:5000/slm-{target}:0123abcd"
    return Image(name, folder / f"{target}.tar", "sha256:0", folder / f"{target}.cdx.json")


BUILT = Images(image("operator"), image("worker"))


def test_the_chart_is_told_repository_and_tag_of_each_image() -> None:
    assert values_of(BUILT.operator.name, BUILT.worker.name) == {
        "image.repository": "localhost:5000/slm-operator",
        "image.tag": "0123abcd",
        "worker.image.repository": "localhost:5000/slm-worker",
        "worker.image.tag": "0123abcd",
    }


def test_installing_is_the_same_command_as_bringing_up_to_date() -> None:
    command = RELEASE.install_command({"image.tag": "a"}, "--wait")
    assert command[:4] == ["/p/helm", "upgrade", "slm-operator", str(CHART)]
    assert {"--install", "--create-namespace", "--wait", "image.tag=a"} < set(command)
    assert command[-4:] == ["--kubeconfig", "/k/config", "--namespace", "slm-system"]


def test_the_nodes_of_another_cluster_pull_from_the_registry_that_is_named() -> None:
    (step,) = existing.plan(HERE, RELEASE, None, "registry.example/team")
    assert "image.repository=registry.example/team/slm-operator" in step.command
    assert "worker.image.repository=registry.example/team/slm-worker" in step.command


def test_the_nodes_of_kind_get_the_images_from_files() -> None:
    *loads, last = existing.plan(OF_KIND, RELEASE, BUILT, "")
    assert [step.command[3:] for step in loads] == [
        ("/cache/operator.tar", "--name", "try"),
        ("/cache/worker.tar", "--name", "try"),
    ]
    assert "image.tag=0123abcd" in last.command


def test_a_cluster_without_a_way_for_the_images_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(existing, "read_target", lambda *_: HERE)
    with pytest.raises(ExistingClusterError, match=r"KUBECONFIG=/k/config REGISTRY="):
        existing.install(Path("/p/kubectl"), Path("/k/config"), "", print, lambda _: "y")


@pytest.mark.parametrize(
    ("answer", "runs"), [("", 0), ("n", 0), ("what", 0), ("y", 1), ("Yes ", 1)]
)
def test_nothing_is_done_before_the_answer_is_yes(
    monkeypatch: pytest.MonkeyPatch, answer: str, runs: int
) -> None:
    said: list[str] = []
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(existing, "read_target", lambda *_: HERE)
    monkeypatch.setattr("slm_dev.helm.find_or_build", lambda _: Path("/p/helm"))
    monkeypatch.setattr(existing, "_run", ran.append)

    done = existing.install(
        Path("/p/kubectl"), Path("/k/config"), "registry.example", said.append, lambda _: answer
    )

    assert (done, len(ran)) == (bool(runs), runs)
    assert HERE.server in said[0]
    assert "helm upgrade slm-operator" in said[1]


def test_a_kubeconfig_that_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExistingClusterError, match=r"none, which is no file"):
        existing.read_target(Path("/p/kubectl"), tmp_path / "none")
