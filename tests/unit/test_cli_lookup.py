"""Which cluster slmctl asks, and of which namespace."""

from __future__ import annotations

from pathlib import Path

import pytest
from kubernetes.aio.config import incluster_config

import kubeconfigs
from slm_operator.cli import lookup
from slm_operator.cluster.configuration import configuration
from slm_operator.cluster.connection import KubeError

IN_POD = "https://10.96.0.1:443"


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the kubeconfig of the user would be, in a Pod with an account."""
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text("t")
    authority.write_text("c")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority))
    pods_namespace = tmp_path / "namespace"
    pods_namespace.write_text("of-the-pod")
    monkeypatch.setattr(lookup, "POD_NAMESPACE", pods_namespace)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    return tmp_path / ".kube" / "config"


async def asked(given: Path | None = None) -> tuple[str, str]:
    """The server and the namespace."""
    settings = await configuration(lookup.kubeconfig_of(given))
    return settings.host, lookup.default_namespace(given)


async def test_within_a_pod_the_users_kubeconfig_goes_before_the_pods_account(own: Path) -> None:
    assert await asked() == (IN_POD, "of-the-pod")
    kubeconfigs.written(own, "https://own:6443", namespace="team")
    assert await asked() == ("https://own:6443", "team")


@pytest.mark.parametrize("text", ["", "{}", "current-context: ''"])
async def test_a_users_kubeconfig_that_chooses_no_cluster_leaves_the_pods_account(
    own: Path, text: str
) -> None:
    own.parent.mkdir()
    own.write_text(text)
    assert await asked() == (IN_POD, "of-the-pod")


async def test_a_users_kubeconfig_that_cannot_be_read_is_refused_and_not_passed_over(
    own: Path,
) -> None:
    own.parent.mkdir()
    own.write_text("[")
    with pytest.raises(KubeError, match="no usable cluster configuration"):
        await asked()


async def test_what_is_named_goes_before_the_users_kubeconfig(
    monkeypatch: pytest.MonkeyPatch, own: Path, tmp_path: Path
) -> None:
    kubeconfigs.written(own, "https://own:6443")
    by_variable = kubeconfigs.written(tmp_path / "b", "https://variable:6443", namespace="b")
    by_option = kubeconfigs.written(tmp_path / "o", "https://option:6443", namespace="o")
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'none'}:{by_variable}")
    assert await asked() == ("https://variable:6443", "b")
    assert await asked(by_option) == ("https://option:6443", "o")


async def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch, own: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", "")
    assert await asked() == (IN_POD, "of-the-pod")
    kubeconfigs.written(own, "https://own:6443", namespace="team")
    assert await asked() == ("https://own:6443", "team")


@pytest.mark.parametrize(
    "files",
    ["dev:prod", "empty:dev:prod", "none:dev:empty", "dev:unset", "unset:dev", "dev:null"],
)
async def test_of_several_files_the_first_current_context_holds_as_for_kubectl(
    monkeypatch: pytest.MonkeyPatch, own: Path, tmp_path: Path, files: str
) -> None:
    for name, current in (("dev", "dev"), ("prod", "prod"), ("unset", ""), ("null", None)):
        server, namespace = f"https://{name}:6443", f"of-{name}"
        kubeconfigs.written(
            tmp_path / name, server, namespace=namespace, name=name, current=current
        )
    (tmp_path / "empty").touch()
    monkeypatch.setenv("KUBECONFIG", ":".join(str(tmp_path / name) for name in files.split(":")))
    assert await asked() == ("https://dev:6443", "of-dev")


async def test_the_current_context_may_be_in_another_file(
    monkeypatch: pytest.MonkeyPatch, own: Path, tmp_path: Path
) -> None:
    current = kubeconfigs.written(tmp_path / "a", "https://a:6443", name="a", current="b")
    there = kubeconfigs.written(tmp_path / "b", "https://b:6443", namespace="of-b", name="b")
    monkeypatch.setenv("KUBECONFIG", f"{current}:{there}")
    assert await asked() == ("https://b:6443", "of-b")
