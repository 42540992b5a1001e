"""Keeps the cache from growing for ever: what was not used for long makes room.

An entry is a folder KIND-KEY, where KEY is a hash of all that it was made from, so that each change
leaves one more. When it was last used is the folder's own time of change.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path

KEPT = 3
"""Of each kind, the one in use among them: a branch, the one before it, and a release."""
UNUSED_SECONDS = 14 * 24 * 3600.0
"""Whoever comes back to a branch after two weeks can wait for a build."""

_ENTRY = re.compile(
    r"(?P<kind>.+)-(?P<key>[0-9a-f]{16})(?P<variant>-[a-z]+)?(?P<partial>\.partial)?"
)


def use(
    entry: Path,
    progress: Callable[[str], None],
    clock: Callable[[], float] = time.time,
    commands: Callable[[], Iterable[bytes]] | None = None,
) -> None:
    """Count ``entry`` of the cache as used now, and remove others of its kind.

    Those go that were not used for UNUSED_SECONDS, and what a build that was killed has left for so
    long; never one of the KEPT that were used last, one whose lock is held, or one that is named by
    the command of a running process (``commands``, by default those of this host). ``progress``
    gets a line for each. A cache that may only be read stays as it is.
    """
    now = clock()
    with suppress(OSError):
        os.utime(entry, (now, now))
    others = [one for one in _of_kind(entry) if one[0] != entry]
    whole = [one for one in others if not _is_partial(one[0])]
    whole.sort(key=lambda one: one[1], reverse=True)
    spare = [*whole[KEPT - 1 :], *(one for one in others if _is_partial(one[0]))]
    for folder, used_at in spare:
        if now - used_at > UNUSED_SECONDS and not _runs(folder, (commands or _commands)()):
            _remove(folder, used_at, progress)


def _of_kind(entry: Path) -> Iterator[tuple[Path, float]]:
    """Each folder of the kind of ``entry``, with the Unix time of its last use."""
    kind = _kind(entry)
    with suppress(OSError):
        for folder in entry.parent.iterdir():
            if kind is not None and _kind(folder) == kind and not folder.is_symlink():
                with suppress(OSError):
                    yield folder, folder.stat().st_mtime


def _kind(entry: Path) -> tuple[str, str] | None:
    found = _ENTRY.fullmatch(entry.name)
    return (found["kind"], found["variant"] or "") if found and entry.is_dir() else None


def _is_partial(folder: Path) -> bool:
    return folder.suffix == ".partial"


def _commands() -> Iterator[bytes]:
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield command.read_bytes()


def _runs(folder: Path, commands: Iterable[bytes]) -> bool:
    name = f"{folder}/".encode()
    return any(name in command for command in commands)


def _remove(folder: Path, used_at: float, progress: Callable[[str], None]) -> None:
    """Unless its lock is held, or somebody used it meanwhile."""
    found = _ENTRY.fullmatch(folder.name)
    name = folder.name.removesuffix(".partial")
    locks = [folder.with_name(f"{name}.lock")]
    if found is not None:
        locks.append(folder.with_name(f"{found['kind']}.lock"))
    with ExitStack() as held, suppress(OSError):
        for lock in locks:
            if lock.exists():
                stream = held.enter_context(lock.open("r+"))
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if folder.stat().st_mtime != used_at:
            return
        since = datetime.fromtimestamp(used_at, UTC)
        progress(f"removing {folder}: not used since {since:%Y-%m-%d}")
        # Under its own name a folder that is half removed would pass for a whole one.
        scratch = folder.with_name(f"{name}.partial")
        if folder != scratch:
            shutil.rmtree(scratch, ignore_errors=True)
            folder.rename(scratch)
        shutil.rmtree(scratch, ignore_errors=True)
