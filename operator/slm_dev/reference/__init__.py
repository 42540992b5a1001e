"""The reference pages of docs/reference, made of what they describe: the models of the API and of
the agent, and the command lines. ``make docs`` writes them."""

from __future__ import annotations

from slm_dev.reference.agent import agent_api
from slm_dev.reference.programs import programs, slmctl
from slm_dev.reference.slmservice import slmservice

FOLDER = "docs/reference"


def pages() -> dict[str, str]:
    """Every page by its file's name."""
    return {
        "slmservice.md": slmservice(),
        "slmctl.md": slmctl(),
        "programs.md": programs(),
        "agent-api.md": agent_api(),
    }
