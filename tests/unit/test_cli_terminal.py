"""How `slmctl` writes to terminals and pipes, whatever the text."""

from __future__ import annotations

import io
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import RenderableType
from rich.text import Text

from cli_builders import condition, found, object_of, service
from cli_world import Cluster, slmctl
from slm_operator.api.models import SLMService
from slm_operator.cli.account import account
from slm_operator.cli.activity import Activity
from slm_operator.cli.activity import table as activity_table
from slm_operator.cli.app import main
from slm_operator.cli.explain import text as explained
from slm_operator.cli.tables import details
from slm_operator.cli.terminal import console

LONG_NAME = "customer-support-assistant-production"
LATER = datetime(2026, 1, 1, 0, 4, tzinfo=UTC)
ODD_MESSAGES = (
    "see [/models/chat] on the node",
    "[rank0]: ValueError: no field [type=value_error]",
    "[rpc error: code = Unknown]",
    "config.json:100: a comma is missing",
)


def piped(monkeypatch: pytest.MonkeyPatch, *arguments: str, columns: str = "") -> str:
    """What a command writes where it cannot know of any width."""
    status = found()
    unready = condition("Ready", "False", "CreateContainerConfigError", "so it is")
    listed = object_of(
        status.model_copy(update={"conditions": (unready, *status.conditions[1:])}), name=LONG_NAME
    )
    return slmctl(monkeypatch, Cluster(listed), *arguments, columns=columns).stdout


@pytest.mark.parametrize("columns", ["", "0", "abc"])
@pytest.mark.parametrize(
    "variables",
    [{}, {"FORCE_COLOR": "1"}, {"TTY_COMPATIBLE": "1"}, {"FORCE_COLOR": "1", "TERM": "dumb"}],
    ids=["plain", "colours", "like a terminal", "like a dumb terminal"],
)
def test_in_a_pipe_no_cell_is_cut(
    monkeypatch: pytest.MonkeyPatch, columns: str, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    header, row = Text.from_ansi(piped(monkeypatch, "get", columns=columns)).plain.splitlines()
    assert row.split()[:2] == [LONG_NAME, "hf://facebook/opt-1.3b"]
    assert (header.split()[-2:], row.split()[-2]) == (
        ["REASON", "AGE"],
        "CreateContainerConfigError",
    )


def test_a_pipe_is_as_wide_as_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert max(map(len, piped(monkeypatch, "get", columns="60").splitlines())) <= 60


def test_a_locale_without_a_letter_costs_that_letter_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    points = tmp_path / "points.csv"
    points.write_text("model,replicas,max_num_seqs,output_tok_s,power_mean_w\nchat,1,256,100,300\n")
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="latin-1"))
    monkeypatch.setattr(sys, "argv", ["slmctl", "choose", str(points)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    sys.stdout.flush()
    row = written.getvalue().decode("latin-1").splitlines()[2]
    assert row.split()[:4] == ["?", "1", "256", "100"]


def shown(what: RenderableType) -> str:
    told = console()
    told.width = 400
    with told.capture() as captured:
        told.print(what)
    return captured.get()


def troubled(message: str) -> SLMService:
    status = found()
    trouble = condition("Ready", "False", "ModelUnreadable", message)
    return service(status.model_copy(update={"conditions": (trouble, *status.conditions[1:])}))


@pytest.mark.parametrize("message", ODD_MESSAGES)
def test_messages_with_brackets_and_colons_are_shown_letter_for_letter(message: str) -> None:
    silent = Activity("chat", "chat-pack-0", simulated=False, silent=message)
    assert message in shown(details(troubled(message)))
    assert message in shown(explained(account(troubled(message)), LATER))
    assert message in shown(activity_table([silent]))
