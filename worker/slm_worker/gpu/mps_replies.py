"""PURE: what the MPS control program answers, in the forms that its releases have.

Protocol 2, in every driver, is a shell on stdin that answers in plain lines. Protocol 3, opt-in in
newer drivers, takes ``module verb`` arguments and answers in CSV. Source: NVIDIA, "Multi-Process
Service", Legacy MPS v2 Interface and MPS v3 Interface.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from typing import Literal

ServerState = Literal["Initializing", "Active", "Fault", "Unknown"]
"""Fault: blocked by a fatal fault of a client; new ones are refused until the faulting are gone."""

_SERVER_STATES: dict[str, ServerState] = {
    "INITIALIZING": "Initializing",
    "ACTIVE": "Active",
    "READY": "Active",
    "FAULT": "Fault",
}
_SAYS_UNKNOWN_COMMAND = re.compile(r"(unknown|invalid|unrecognized) command", re.IGNORECASE)


class ReplyError(Exception):
    """An answer that is none; the text is what the program said."""


class UnknownCommandError(ReplyError):
    """This release of the program has no such command."""


@dataclass(frozen=True)
class MpsServer:
    """One server process, which holds the GPU for its clients."""

    pid: int
    state: ServerState
    clients: tuple[int, ...] = ()
    """Their process ids."""


def checked(reply: str) -> str:
    """``reply``, unless it says that there is no such command. Raises UnknownCommandError."""
    if _SAYS_UNKNOWN_COMMAND.search(reply):
        raise UnknownCommandError(reply.strip())
    return reply


def pids(reply: str) -> tuple[int, ...]:
    """Process ids, whether one a line, all in one line, or "no" such things. Raises ReplyError on
    anything else."""
    words = checked(reply).split()
    if words and words[0].lower() == "no":
        return ()
    if not all(word.isascii() and word.isdecimal() for word in words):
        raise ReplyError(reply.strip())
    # A client in a process namespace that is not ours has the id 0 here: nobody to speak of.
    return tuple(pid for word in words if (pid := int(word)) > 0)


def server_state(reply: str) -> ServerState:
    """The state that a status names, as a word of its own. Raises UnknownCommandError."""
    for word in re.findall(r"[A-Za-z]+", checked(reply)):
        if (state := _SERVER_STATES.get(word.upper())) is not None:
            return state
    return "Unknown"


def csv_servers(reply: str) -> tuple[MpsServer, ...]:
    """Protocol 3's ``server list``: name, uid, pid, status, ... Raises ReplyError.

    A server that is configured and does not run has no pid, and is left out.
    """
    return tuple(
        MpsServer(int(row[2]), server_state(row[3]))
        for row in _rows(reply, columns=4)
        if row[2].isdecimal() and int(row[2]) > 0
    )


def csv_clients(reply: str) -> tuple[int, ...]:
    """Protocol 3's ``client list``: the pid comes first. Raises ReplyError."""
    return tuple(
        int(row[0]) for row in _rows(reply, columns=1) if row[0].isdecimal() and int(row[0]) > 0
    )


def _rows(reply: str, *, columns: int) -> list[list[str]]:
    try:
        rows = [row for row in csv.reader(checked(reply).splitlines()) if row]
    except csv.Error as error:
        raise ReplyError(f"{error}: {reply.strip()}") from None
    stripped = [[cell.strip() for cell in row] for row in rows]
    if any(len(row) < columns or not row[columns - 1] for row in stripped):
        raise ReplyError(reply.strip())
    return stripped
