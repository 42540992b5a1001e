"""A bill of materials for an image: its Python distributions and Debian packages, as CycloneDX.

Read from the image itself, layer by layer, so it tells what is there and not what was asked for.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

from slm_dev.images.oci import Layout

CYCLONEDX_VERSION = "1.5"

_PYTHON = re.compile(r".*\.(?:dist-info/METADATA|egg-info/PKG-INFO)")
_DPKG = re.compile(r"var/lib/dpkg/(?:status|status\.d/[^/]+(?<!\.md5sums))")
# How a layer says that a file of a lower one is gone.
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"


@dataclass(frozen=True, order=True)
class Component:
    """One package: ``kind`` is pypi or deb, as in package URLs."""

    kind: str
    name: str
    version: str
    license: str = ""

    @property
    def url(self) -> str:
        name = quote(self.name)
        if self.kind == "deb":
            return f"pkg:deb/debian/{name}@{quote(self.version, safe='')}"
        return f"pkg:pypi/{name}@{quote(self.version, safe='')}"


def write_sbom(layout: Layout, name: str, target: Path) -> None:
    """Write the bill of ``layout``, called ``name``, to ``target``."""
    bill = cyclonedx(name, layout.digest, components(layout.layers()))
    target.write_text(json.dumps(bill, indent=2) + "\n")


def components(layers: Iterable[Path]) -> list[Component]:
    """What the image of ``layers``, lowest first, holds; sorted."""
    files: dict[str, bytes] = {}
    for layer in layers:
        with tarfile.open(layer) as archive:
            _apply(archive, files)
    found: set[Component] = set()
    for path, content in files.items():
        text = content.decode(errors="replace")
        found.update([python_distribution(text)] if _PYTHON.fullmatch(path) else debian(text))
    return sorted(found)


def python_distribution(metadata: str) -> Component:
    """From the text of a distribution's METADATA."""
    told = HeaderParser().parsestr(metadata)
    # PyPI's names are one whatever the case and the separator.
    name = re.sub(r"[-_.]+", "-", str(told["Name"])).lower()
    return Component("pypi", name, str(told["Version"]), str(told["License-Expression"] or ""))


def debian(status: str) -> Iterator[Component]:
    """From the text of a package database; packages that were removed are left out."""
    for paragraph in status.split("\n\n"):
        told = HeaderParser().parsestr(paragraph.strip())
        if told["Package"] and str(told["Status"] or " installed").endswith(" installed"):
            yield Component("deb", str(told["Package"]), str(told["Version"]))


def cyclonedx(name: str, digest: str, found: Iterable[Component]) -> dict[str, Any]:
    """The bill as JSON; without a time or a serial number, so that one image has one bill."""
    repository, _, tag = name.rpartition(":")
    return {
        "bomFormat": "CycloneDX",
        "specVersion": CYCLONEDX_VERSION,
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": digest,
                "name": repository,
                "version": tag,
                "hashes": [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}],
            }
        },
        "components": [_component(each) for each in found],
    }


def _component(component: Component) -> dict[str, Any]:
    described: dict[str, Any] = {
        "type": "library",
        "bom-ref": component.url,
        "name": component.name,
        "version": component.version,
        "purl": component.url,
    }
    if component.license:
        described["licenses"] = [{"expression": component.license}]
    return described


def _apply(archive: tarfile.TarFile, files: dict[str, bytes]) -> None:
    """Change ``files``, those of interest in the layers below, as the layer ``archive`` says."""
    for member in archive:
        path = member.name.removeprefix("./").strip("/")
        folder, _, base = path.rpartition("/")
        if base == _OPAQUE:
            _remove(files, folder)
        elif base.startswith(_WHITEOUT):
            _remove(files, f"{folder}/{base.removeprefix(_WHITEOUT)}")
        elif member.isfile() and (_PYTHON.fullmatch(path) or _DPKG.fullmatch(path)):
            stream = archive.extractfile(member)
            files[path] = stream.read() if stream else b""


def _remove(files: dict[str, bytes], path: str) -> None:
    for each in [each for each in files if each == path or each.startswith(f"{path}/")]:
        del files[each]
