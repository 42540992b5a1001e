"""The cache folder: where it is, how entries are named, and one writer at a time."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from slm_dev.vllm_cpu.errors import SetupError

Progress = Callable[[str], None]

_KEY_LENGTH = 16


def cache_root() -> Path:
    """Return ``$SLM_CACHE_DIR``, or ``slm-operator`` in the user's cache folder."""
    chosen = os.environ.get("SLM_CACHE_DIR")
    if chosen:
        return Path(chosen).absolute()
    user_cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(user_cache) if user_cache else Path.home() / ".cache") / "slm-operator"


def content_key(*parts: bytes) -> str:
    """Return a short name that changes when any of `parts` does."""
    digest = hashlib.sha256()
    for part in parts:
        # The length keeps ("ab", "c") and ("a", "bc") apart.
        digest.update(f"{len(part)}:".encode())
        digest.update(part)
    return digest.hexdigest()[:_KEY_LENGTH]


@contextmanager
def exclusive(entry: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock of the cache entry `entry`, waiting for another process that holds it.

    The lock goes with its process, so a killed installation leaves none behind.
    """
    entry.parent.mkdir(parents=True, exist_ok=True)
    with entry.with_name(f"{entry.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for another process that is making {entry}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def require_free_space(folder: Path, needed_bytes: int) -> None:
    """Raise SetupError when the file system of `folder`, which exists, has too little room."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise SetupError(
            f"{folder} has {free_bytes / 1e9:.1f} GB free and {needed_bytes / 1e9:.1f} GB are "
            "needed; free some, or set SLM_CACHE_DIR to a folder on a larger disk"
        )
