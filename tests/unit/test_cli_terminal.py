"""How `slmctl` writes to terminals and pipes, whatever the text."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from rich.console import RenderableType

from cli_builders import condition, found, object_of, service
from cli_world import Cluster, slmctl
from slm_operator.api.models import SLMService
from slm_operator.cli.account import account
from slm_operator.cli.activity import Activity
from slm_operator.cli.activity import table as activity_table
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


def piped(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """What a command writes where it cannot know of any width."""
    status = found()
    unready = condition("Ready", "False", "CreateContainerConfigError", "so it is")
    listed = object_of(
        status.model_copy(update={"conditions": (unready, *status.conditions[1:])}), name=LONG_NAME
    )
    return slmctl(monkeypatch, Cluster(listed), *arguments, columns="").stdout


def test_in_a_pipe_no_cell_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    header, row = piped(monkeypatch, "get").splitlines()
    assert row.split()[:2] == [LONG_NAME, "hf://facebook/opt-1.3b"]
    assert (header.split()[-2:], row.split()[-2]) == (
        ["REASON", "AGE"],
        "CreateContainerConfigError",
    )


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
