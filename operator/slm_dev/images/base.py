"""Bases of our own, made from Debian packages, for where no registry can be reached.

They stand for the images that the Dockerfile names by default: `RUNTIME` for the slim Python image,
without a shell; `BUILD` for the same with shell, pip and HAProxy, in which stages run commands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from slm_dev.images.debian import Package, closure, entries
from slm_dev.images.layers import Entry, merged_usr_links, write_layer
from slm_dev.images.oci import Layout, write_layout

CREATED = "2026-01-01T00:00:00Z"
EPOCH_SECONDS = 1767225600
"""`CREATED`, the time that all files and images of ours bear, so that none depends on the clock."""

USER_ID = 65532
"""Of the user that the images run as: the one that distroless images made customary."""

PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"

PYTHON = ("base-files", "ca-certificates", "libpython3-stdlib", "netbase", "python3-minimal")
_SHELL = ("coreutils", "dash")


@dataclass(frozen=True)
class Base:
    """A base image: its name, the packages that it is asked to hold, and those that it must not."""

    name: str
    packages: tuple[str, ...]


RUNTIME = Base("localhost/slm-base", PYTHON)
BUILD = Base("localhost/slm-build", (*PYTHON, *_SHELL, "haproxy", "python3-pip"))
BASES = (RUNTIME, BUILD)

# Packages that others depend on for their installation scripts, which do not run here.
SCRIPTS_ONLY = (
    "adduser",
    "debconf",
    "debianutils",
    "dpkg",
    "init-system-helpers",
    "lsb-base",
    "mawk",
    "openssl",
    "passwd",
    "perl",
    "perl-base",
    "sysvinit-utils",
    "tar",
    "usrmerge",
)

_CERTIFICATE = re.compile(r"usr/share/ca-certificates/mozilla/.*\.crt")
_USERS = (("root", 0, "/root"), ("nobody", 65534, "/nonexistent"), ("slm", USER_ID, "/tmp"))  # noqa: S108


def write_base(base: Base, packages: dict[str, Package], folder: Path) -> Layout:
    """Write ``base`` as an image in the new ``folder``. Raises SetupError."""
    chosen = closure(base.packages, packages, without=SCRIPTS_ONLY)
    folder.mkdir(parents=True)
    layer = folder / "layer.tar"
    write_layer(_system(entry for each in chosen for entry in entries(each)), layer, EPOCH_SECONDS)
    return write_layout(folder, base.name, [layer], {"Env": [f"PATH={PATH}"]}, CREATED)


def _system(installed: Iterable[Entry]) -> Iterable[Entry]:
    """``installed`` with what the packages' scripts would have made of it."""
    certificates = {}
    for entry in installed:
        if _CERTIFICATE.fullmatch(entry.path):
            certificates[entry.path] = entry.content
        yield entry
    yield from merged_usr_links()
    yield Entry("etc/ssl/certs/ca-certificates.crt", 0o644, _joined(certificates))
    yield Entry("usr/lib/ssl/cert.pem", 0o777, link="/etc/ssl/certs/ca-certificates.crt")
    users = [f"{name}:x:{number}:{number}::{home}:/sbin/nologin" for name, number, home in _USERS]
    groups = [f"{name}:x:{number}:" for name, number, _ in _USERS]
    yield Entry("etc/passwd", 0o644, _lines(users))
    yield Entry("etc/group", 0o644, _lines(groups))
    for path in ("dev", "proc", "sys", "run", "var/tmp"):
        yield Entry.of_folder(path)
    yield Entry.of_folder("root", 0o700)
    yield Entry.of_folder("tmp", 0o1777)


def _joined(certificates: dict[str, bytes]) -> bytes:
    return b"".join(certificates[path] for path in sorted(certificates))


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
