"""Writes a layer: a tar whose bytes depend on nothing but what is in it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

FILE_MODE = 0o644
FOLDER_MODE = 0o755
EXECUTABLE_MODE = 0o755

# Since Debian 12 these are links into /usr, and packages still ship files below them.
_MERGED = ("bin", "lib", "lib32", "lib64", "sbin")
_OVERRIDE = 0o7777


@dataclass(frozen=True)
class Entry:
    """One file, folder or link of a layer. ``path`` has no leading slash."""

    path: str
    mode: int
    content: bytes = b""
    link: str | None = None
    folder: bool = False
    source: Path | None = None
    """A file with the content, for one that is too large to hold."""

    @classmethod
    def of_folder(cls, path: str, mode: int = FOLDER_MODE) -> Entry:
        return cls(path, mode, folder=True)


def merged_usr(path: str) -> str:
    """``lib/x`` -> ``usr/lib/x``: where a Debian system has what a package ships at ``path``."""
    first, _, rest = path.partition("/")
    return f"usr/{path}" if first in _MERGED and rest else path


def read_package(archive: tarfile.TarFile) -> Iterable[Entry]:
    """What a Debian package installs, at the paths of a system with merged /usr.

    Hard links become files of their own; devices and pipes are left out.
    """
    for member in archive:
        path = merged_usr(member.name.removeprefix("./").strip("/"))
        if not path or path in _MERGED:
            continue
        mode = member.mode & _OVERRIDE
        if member.isdir():
            yield Entry.of_folder(path, mode)
        elif member.issym():
            yield Entry(path, mode, link=member.linkname)
        elif member.isfile() or member.islnk():
            stream = archive.extractfile(member)
            yield Entry(path, mode, stream.read() if stream else b"")


def merged_usr_links() -> Iterable[Entry]:
    return (Entry(name, 0o777, link=f"usr/{name}") for name in _MERGED)


def write_layer(entries: Iterable[Entry], target: Path, epoch: int) -> None:
    """Write ``entries`` sorted by path, owned by root, all of the time ``epoch`` (seconds).

    Of two entries with one path the later counts; folders that no entry names are added.
    """
    by_path = {entry.path: entry for entry in entries}
    for path in list(by_path):
        for parent in PurePosixPath(path).parents:
            if str(parent) != "." and str(parent) not in by_path:
                by_path[str(parent)] = Entry.of_folder(str(parent))
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as layer:
        for path in sorted(by_path):
            _add(layer, by_path[path], epoch)


def _add(layer: tarfile.TarFile, entry: Entry, epoch: int) -> None:
    member = tarfile.TarInfo(entry.path)
    member.mode = entry.mode
    member.mtime = epoch
    if entry.folder:
        member.type = tarfile.DIRTYPE
        layer.addfile(member)
    elif entry.link is not None:
        member.type = tarfile.SYMTYPE
        member.linkname = entry.link
        layer.addfile(member)
    elif entry.source is not None:
        member.size = entry.source.stat().st_size
        with entry.source.open("rb") as stream:
            layer.addfile(member, stream)
    else:
        member.size = len(entry.content)
        layer.addfile(member, io.BytesIO(entry.content))
