"""Files that a command writes besides what it prints: whether it can, before it works for long, and
refusals that name option and remedy."""

from __future__ import annotations

from pathlib import Path


class OutputFileError(Exception):
    """A file cannot be written; the message names option, value, cause and remedy."""


def check(option: str, file: Path) -> None:
    """Whether ``file`` can be written, which leaves it as it is. Raises OutputFileError."""
    try:
        if not file.parent.is_dir():
            raise OutputFileError(f"{option} {file}: {file.parent} is no directory: make it first")
        # Behind a link that leads nowhere yet, the file is made and the link kept.
        real = file.resolve()
        there = real.exists()
        if there and not real.is_file():
            return  # opening a pipe and closing it again would end whoever reads it
        with real.open("ab"):
            pass
        if not there:
            real.unlink()
    except OSError as error:
        raise _refused(option, file, error) from error


def write(option: str, file: Path, text: str) -> None:
    """Raises OutputFileError."""
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _refused(option, file, error) from error


def _refused(option: str, file: Path, error: OSError) -> OutputFileError:
    return OutputFileError(
        f"{option} {file}: cannot be written ({error.strerror or error}): give a file that can be"
    )
