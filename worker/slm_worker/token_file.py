"""The bearer token of the agent's API, which may change while the agent runs."""

from __future__ import annotations

import contextlib
from pathlib import Path

MIN_TOKEN_CHARACTERS = 16
MAX_TOKEN_CHARACTERS = 4096
"""As much of the file is read; a token has some 64."""


class TokenFile:
    """A file that holds the token and nothing else, such as a mounted Secret, which the kubelet
    replaces when the Secret changes."""

    def __init__(self, path: Path) -> None:
        """Raises OSError when it cannot be read, and ValueError when it holds no token."""
        self._path = path
        self._token = _read(path)

    def current(self) -> str:
        """Read anew at each call: a new token counts at once, and the one before no more. While
        the file cannot be read, or holds no token, the last one counts."""
        with contextlib.suppress(OSError, ValueError):
            self._token = _read(self._path)
        return self._token


def _read(path: Path) -> str:
    with path.open(encoding="ascii") as file:
        token = file.read(MAX_TOKEN_CHARACTERS).strip()
    if len(token) < MIN_TOKEN_CHARACTERS:
        raise ValueError(f"it holds {len(token)} characters")
    return token
