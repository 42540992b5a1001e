"""Options of the operator that are refused before anything starts."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from slm_operator import main
from slm_operator.activator.wire import TOKEN_LENGTH, TOKEN_VARIABLE
from slm_operator.keys import KEY_LENGTH
from slm_operator.main import KEY_VARIABLE


@pytest.mark.parametrize("namespace", ["a,b", "A", "", "-a", "a" * 64, "a b"])
def test_a_namespace_that_is_no_name_is_refused_with_the_remedy(namespace: str) -> None:
    app = typer.Typer()
    app.command()(main.start)
    key = {KEY_VARIABLE: "k" * KEY_LENGTH, "COLUMNS": "300"}
    done = CliRunner().invoke(app, ["--watch-namespace", namespace], env=key)
    assert done.exit_code == 2
    assert f"--watch-namespace {namespace}: write the name of one namespace" in done.output


def test_namespaces_are_kept_in_order_and_once() -> None:
    assert main._namespaces(["b", "a", "b"]) == ("b", "a")
    assert main._namespaces([]) == ()


@pytest.mark.parametrize(
    "url",
    [
        "http://activator:70000",
        "http://activator:0",
        "http://activator",
        "http://a..b:8082",
        f"http://{'a' * 64}:8082",
        "http://[::::]:8082",
        "https://activator:8082",
    ],
)
def test_an_activators_url_that_nobody_can_reach_is_refused_with_the_remedy(url: str) -> None:
    app = typer.Typer()
    app.command()(main.start)
    texts = {KEY_VARIABLE: "k" * KEY_LENGTH, TOKEN_VARIABLE: "t" * TOKEN_LENGTH, "COLUMNS": "300"}
    done = CliRunner().invoke(app, ["--activator-url", url], env=texts)
    assert done.exit_code == 2
    assert f"--activator-url {url}: write it as http://HOST:PORT" in done.output


@pytest.mark.parametrize("host", ["activator.system.svc", "10.0.0.9", "[fd00::9]", "127.0.0.1"])
def test_other_urls_of_an_activator_are_taken(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "t" * TOKEN_LENGTH)
    url = f"http://{host}:8082"
    assert main._activator_access(url, "20000-20999", "").url == url
