"""Which cluster is reached, as whom, and through which proxy."""

from __future__ import annotations

from pathlib import Path

import pytest

import kubeconfigs
from slm_operator.cluster.configuration import configuration, proxy_of_environment


async def test_an_empty_variable_names_no_kubeconfig(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kubeconfigs.written(tmp_path / ".kube" / "config")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", "")
    assert (await configuration()).host == kubeconfigs.SERVER


@pytest.mark.parametrize(
    ("variables", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        ({"HTTP_PROXY": "http://proxy:3128"}, None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "10.0.0.1,api.test"}, None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "other.test"}, "http://proxy:3128"),
    ],
)
def test_the_proxy_is_that_of_the_environment_unless_it_excepts_the_host(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], proxy: str | None
) -> None:
    set_proxies(monkeypatch, variables)
    assert proxy_of_environment("https://api.test:6443") == proxy


def set_proxies(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("host", "exceptions", "excepted"),
    [
        ("10.96.0.1", "localhost,127.0.0.1, 10.0.0.0/8,.svc", True),
        ("10.96.0.1", "10.96.0.1", True),
        ("10.96.0.1", "10.1.2.3/8", True),
        ("11.96.0.1", "10.0.0.0/8", False),
        ("[fd00::1]", "10.0.0.0/8,fd00::/8", True),
        ("[fd00::1]", "fd00::1", True),
        ("[fe80::1]", "fd00::/8", False),
        ("10.0.0.0.test", "10.0.0.0/8", False),
        ("10.96.0.1", "10.0.0.0/99,,/8", False),
        ("10.96.0.1", "", False),
    ],
)
def test_networks_are_excepted_for_a_host_that_is_an_address(
    monkeypatch: pytest.MonkeyPatch, host: str, exceptions: str, excepted: bool
) -> None:
    set_proxies(monkeypatch, {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": exceptions})
    proxy = proxy_of_environment(f"https://{host}:443")
    assert proxy == (None if excepted else "http://proxy:3128")
