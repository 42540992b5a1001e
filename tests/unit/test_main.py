"""Options of the operator that are refused before anything starts."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from slm_operator import main
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
