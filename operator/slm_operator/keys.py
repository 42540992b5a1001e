"""The operator's key, from which the agents' tokens are derived, and its change while it runs."""

from __future__ import annotations

import hashlib
import hmac
import logging
from dataclasses import dataclass, field
from pathlib import Path

KEY_LENGTH = 32
"""Fewest characters of a key."""
KEY_BYTES = 4096
"""As much of a file is read."""

log = logging.getLogger(__name__)


class BadKeyError(Exception):
    """The text says what is wrong with a key, and never holds it."""


@dataclass(frozen=True)
class Tokens:
    """The bearer tokens of one service's agents."""

    current: str = field(repr=False)
    former: str | None = field(default=None, repr=False)
    """Of the key before, while there was one since this process began: what agents take until the
    kubelet has brought them the new one."""


class Keys:
    """The key that counts now, and the one before it."""

    def __init__(self, key: str, file: Path | None = None) -> None:
        """``file``: where the key came from, read anew at each question."""
        self._key = key
        self._former: str | None = None
        self._file = file
        self._complained = False

    @classmethod
    def from_file(cls, file: Path) -> Keys:
        """Raises BadKeyError."""
        return cls(_read(file), file)

    def tokens(self, uid: str) -> Tokens:
        """Of the service with this UID: derived, so that the operator needs no right to read
        Secrets, and different for each object."""
        self._look()
        former = agent_token(self._former, uid) if self._former is not None else None
        return Tokens(agent_token(self._key, uid), former)

    def _look(self) -> None:
        """A file that cannot be read, or holds no key, leaves the key as it is."""
        if self._file is None:
            return
        try:
            key = _read(self._file)
        except BadKeyError as error:
            if not self._complained:
                log.warning("the key stays as it was: %s", error)
            self._complained = True
            return
        self._complained = False
        if key != self._key:
            self._former, self._key = self._key, key
            log.info("the key has changed: the agents' tokens are replaced")


def agent_token(key: str, uid: str) -> str:
    """The bearer token of the agents of the service with this UID."""
    return hmac.new(key.encode(), uid.encode(), hashlib.sha256).hexdigest()


def checked(key: str, source: str) -> str:
    """Raises BadKeyError."""
    if len(key) < KEY_LENGTH:
        raise BadKeyError(
            f"{source} has {len(key)} characters, at least {KEY_LENGTH} are needed: set it to a "
            "random text that stays the same over restarts, such as from a Secret"
        )
    return key


def _read(file: Path) -> str:
    try:
        with file.open(encoding="utf-8") as opened:
            return checked(opened.read(KEY_BYTES).strip(), str(file))
    except OSError as error:
        raise BadKeyError(
            f"{file} cannot be read ({error.strerror}): mount the key's Secret there"
        ) from None
    except UnicodeDecodeError:
        raise BadKeyError(f"{file} holds no text: write the key as letters and digits") from None
