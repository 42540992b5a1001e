"""PURE: what the logs of the MPS daemon and its servers say of a fatal fault.

NVIDIA documents where the logs are, but not each line, so that words are matched rather than whole
lines. Seen in public reports of drivers 535 to 580: "Server encountered a fatal exception. Shutting
down" and "Server 95 exited with status 1" in control.log, "Failed to start : invalid argument" and
"Client {PID: 4267, Context ID: 0} connected" in server.log, each after "[time process pid]". What
the logs do not tell shows in the server's status, which is documented.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

MAX_CAUSE_CHARACTERS = 300

_PREFIX = re.compile(r"^\[[^\]]*?\s(?P<process>[A-Za-z ]+?)\s+(?P<pid>\d+)\]\s*(?P<text>.*)$")
_IS_FATAL = r"(?<!\bno )(?<!\bnot )(?<!\bnot a )(?<!\bnon-)(?<!\bnon )(?<!\bwithout )\bfatal\b"
_FATAL = re.compile(
    rf"{_IS_FATAL}.*\b(exception|fault|error)\b"
    rf"|\b(exception|fault|error)\b.*{_IS_FATAL}"
    r"|\b(is|in|to) (a |the )?FAULT\b"
    r"|\bfailed to start\b"
    r"|\bexited with status [1-9]",
    re.IGNORECASE,
)
_CLIENT = re.compile(r"\{\s*(?:PID:\s*)?(\d+)\s*,|\bclient (?:process )?(\d+)\b", re.IGNORECASE)


@dataclass(frozen=True)
class LoggedFault:
    """A fatal fault as a log tells it."""

    cause: str
    """The text of the line that tells most, without its time."""
    client_pids: tuple[int, ...] = ()
    """Clients that the log names with it; usually none."""


def fault_in(lines: Iterable[str]) -> LoggedFault | None:
    """The fault that these lines tell of, or None.

    Of several lines the first gives the cause, as what follows is its consequence, and all name
    clients. Lines that say of several clients that they are in fault name no culprit.
    """
    cause = ""
    named: list[int] = []
    in_fault: set[int] = set()
    for line in lines:
        text = _text(line)
        if not _FATAL.search(text):
            continue
        cause = cause or text[:MAX_CAUSE_CHARACTERS]
        clients = [int(pid) for pair in _CLIENT.findall(text) for pid in pair if pid]
        if re.search(r"\bstatus of client\b", text, re.IGNORECASE):
            in_fault.update(clients)
        else:
            named += [pid for pid in clients if pid not in named]
    if not cause:
        return None
    if not named and len(in_fault) == 1:
        named = list(in_fault)
    return LoggedFault(cause, tuple(named))


def _text(line: str) -> str:
    """The line as it is quoted: which process says what. A time would make each line new."""
    match = _PREFIX.match(line.strip())
    if match is None:
        return line.strip()
    return f"{match['process'].strip()}: {match['text'].strip()}"
