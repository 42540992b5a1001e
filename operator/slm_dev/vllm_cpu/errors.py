"""The error that every step of the setup raises."""

from __future__ import annotations


class SetupError(RuntimeError):
    """The environment or the model cannot be made; the message says what to do about it."""
