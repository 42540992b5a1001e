"""Copies HAProxy with its libraries and its loader out of one image, to run on any other.

Runs while the worker's image is built: ``bundle_haproxy.py IMAGE_ROOT TARGET_ROOT``. Standard
library and patchelf only. The distribution of the worker's base may be older than HAProxy's, or
carry a HAProxy that is too old, so nothing of that base is used.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

HOME = "opt/haproxy"
PROGRAMS = ("usr/local/sbin/haproxy", "usr/sbin/haproxy")
LIBRARY_FOLDERS = ("lib", "usr/lib", "usr/local/lib")
# glibc opens it by name when a thread ends, so no program lists it.
OPENED_LATER = ("libgcc_s.so.1",)
DATABASE = "var/lib/dpkg"


def main(image: Path, target: Path) -> None:
    """Raises SystemExit, with what is missing."""
    program = next((image / path for path in PROGRAMS if (image / path).is_file()), None)
    if program is None:
        sys.exit(f"the HAProxy image has none of {', '.join(PROGRAMS)}")
    home = target / HOME
    (home / "bin").mkdir(parents=True)
    (home / "lib").mkdir()
    own = home / "bin" / "haproxy"
    shutil.copy(program, own)
    loader = Path(_patchelf("--print-interpreter", own)).name
    libraries = {loader: _find(image, loader)}
    for name in OPENED_LATER:
        libraries[name] = _find(image, name)
    _collect(image, own, libraries)
    for name in OPENED_LATER:
        _collect(image, libraries[name], libraries)
    for name, file in libraries.items():
        shutil.copy(file, home / "lib" / name)
        (home / "lib" / name).chmod(0o755)
    # As DT_RPATH, which holds for the libraries' own libraries and for those opened later too.
    _patchelf("--force-rpath", "--set-rpath", f"/{HOME}/lib", own)
    _patchelf("--set-interpreter", f"/{HOME}/lib/{loader}", own)
    _tell_packages(image, [program, *libraries.values()], target)


def _collect(image: Path, file: Path, libraries: dict[str, Path]) -> None:
    for name in _patchelf("--print-needed", file).split():
        if name not in libraries:
            libraries[name] = _find(image, name)
            _collect(image, libraries[name], libraries)


def _find(image: Path, name: str) -> Path:
    for folder in LIBRARY_FOLDERS:
        for path in sorted((image / folder).rglob(name)):
            # A link that is absolute points out of the image, into this stage.
            if path.is_file() and path.resolve().is_relative_to(image):
                return path.resolve()
    sys.exit(f"the HAProxy image has no library {name}")


def _patchelf(*arguments: object) -> str:
    command = ["patchelf", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _tell_packages(image: Path, files: list[Path], target: Path) -> None:
    """Put the paragraphs of the packages that ``files`` come from where image scanners look."""
    wanted = {_unmerged(str(file.relative_to(image))) for file in files}
    told = target / "var/lib/dpkg/status.d"
    told.mkdir(parents=True)
    for name, paragraph in _paragraphs(image).items():
        if wanted & set(_files(image, name)):
            (told / f"haproxy-{name}").write_text(f"{paragraph}\n")


def _paragraphs(image: Path) -> dict[str, str]:
    """Package to paragraph, from a system's database and from that of an image without dpkg."""
    texts = [
        file.read_text()
        for file in sorted((image / DATABASE / "status.d").glob("*"))
        if file.suffix != ".md5sums"
    ]
    if (image / DATABASE / "status").is_file():
        texts += (image / DATABASE / "status").read_text().split("\n\n")
    matches = ((re.search(r"^Package: (\S+)", text, re.MULTILINE), text) for text in texts)
    return {match[1]: text.strip() for match, text in matches if match}


def _files(image: Path, package: str) -> list[str]:
    """What ``package`` installs."""
    lists = sorted((image / DATABASE / "info").glob(f"{package}.list"))
    lists += sorted((image / DATABASE / "info").glob(f"{package}:*.list"))
    sums = image / DATABASE / "status.d" / f"{package}.md5sums"
    lines = [line for file in lists for line in file.read_text().splitlines()]
    if sums.is_file():
        lines += [line.partition("  ")[2] for line in sums.read_text().splitlines()]
    return [_unmerged(line) for line in lines]


def _unmerged(path: str) -> str:
    """A package may say /lib of what lies in /usr/lib."""
    return path.removeprefix("/").removeprefix("usr/")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
