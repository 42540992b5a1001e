"""Debian packages: downloads them with what they need, and chooses those that a base holds."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from slm_dev.images.layers import Entry, read_package
from slm_dev.vllm_cpu.commands import Run, run_command
from slm_dev.vllm_cpu.errors import SetupError

SUITE = "bookworm"
"""Debian 12: its Python is 3.11, its HAProxy 2.6."""

STATUS_FOLDER = "var/lib/dpkg/status.d"
"""Where scanners of images look for the packages of an image that has no dpkg."""

_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_DOCUMENTATION = re.compile(
    r"usr/share/(?:doc/(?!.*/copyright$)|man/|locale/|info/|lintian/|bash-completion/|doc-base/|"
    r"pixmaps/|applications/|menu/|bug/)|etc/(?:cron|init|logrotate)|"
    r"(?:usr/)?lib/systemd/"
)


@dataclass(frozen=True)
class Package:
    """A package file and its control paragraph."""

    file: Path
    control: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.control["Package"]

    @property
    def status(self) -> bytes:
        """The paragraph as the package database has it."""
        told = {**self.control, "Status": "install ok installed"}
        return "".join(f"{key}: {told[key]}\n" for key in sorted(told)).encode()

    def needs(self) -> Iterable[tuple[str, ...]]:
        """What it depends on; each is a choice of names."""
        for field in ("Pre-Depends", "Depends"):
            for choice in filter(None, self.control.get(field, "").split(",")):
                yield tuple(_NAME.findall(each)[0] for each in choice.split("|"))


def download(names: Collection[str], folder: Path, run: Run = run_command) -> None:
    """Download ``names`` and all that they depend on into ``folder``. Raises SetupError."""
    run(
        [
            *("mmdebstrap", "--mode=root", "--variant=extract", "--format=null", "--quiet"),
            f"--include={','.join(sorted(names))}",
            "--skip=cleanup/apt/cache",
            f"--extract-hook=cp \"$1\"/var/cache/apt/archives/*.deb '{folder}'",
            SUITE,
        ]
    )


def read_packages(folder: Path, run: Run = run_command) -> dict[str, Package]:
    """Map name to package for the package files in ``folder``."""
    packages = {}
    for file in sorted(folder.glob("*.deb")):
        package = Package(file, parse_control(run(["dpkg-deb", "--field", str(file)])))
        packages[package.name] = package
    return packages


def parse_control(text: str) -> dict[str, str]:
    """The fields of a control paragraph that are one line each, and the first line of others."""
    pairs = (line.partition(":") for line in text.splitlines() if line[:1].strip())
    return {key: value.strip() for key, _, value in pairs}


def closure(
    names: Collection[str], packages: Mapping[str, Package], without: Collection[str] = ()
) -> list[Package]:
    """``names`` and all that they depend on, but for ``without``, sorted by name.

    A need that no package here bears the name of is met by another that provides it, or is one of
    those left out. Raises SetupError when one of ``names`` is absent.
    """
    missing = sorted(set(names) - set(packages))
    if missing:
        raise SetupError(f"Debian {SUITE} gave no package {', '.join(missing)}")
    found: dict[str, Package] = {}
    open_names = list(names)
    while open_names:
        name = open_names.pop()
        if name in found or name in without or name not in packages:
            continue
        found[name] = packages[name]
        for choice in packages[name].needs():
            open_names.extend([each for each in choice if each in packages][:1])
    return [found[name] for name in sorted(found)]


def entries(package: Package) -> Iterable[Entry]:
    """What ``package`` adds to a base: its files but for documentation, and its paragraph."""
    unpacked = subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", str(package.file)], capture_output=True
    )
    if unpacked.returncode != 0:
        raise SetupError(f"{package.file} is no Debian package; remove it and start again")
    with tarfile.open(fileobj=io.BytesIO(unpacked.stdout)) as archive:
        for entry in read_package(archive):
            if not _DOCUMENTATION.match(entry.path):
                yield entry
    yield Entry(f"{STATUS_FOLDER}/{package.name}", 0o644, package.status)
    sums = subprocess.run(["dpkg-deb", "--info", str(package.file), "md5sums"], capture_output=True)
    yield Entry(f"{STATUS_FOLDER}/{package.name}.md5sums", 0o644, sums.stdout)
