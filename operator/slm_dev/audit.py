"""`make audit`: what is pinned, under which licence, and where pip-audit is, with which holes.

Offline: each line of the requirement files names one version and at least one hash, all files agree
on it, and every package that is installed has a licence of the list below. Known holes need a data
base: install pip-audit where there is a network, and it is run on the same files.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = ("operator/requirements.txt", "worker/requirements.txt", "tests/requirements.txt")
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+) *(;[^\\]+)?")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}\b")
ALLOWED = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MPL-2.0"),
    *("PSF-2.0", "Zlib", "Apache Software License", "BSD License", "ISC License (ISCL)"),
    *("DFSG approved", "MIT License", "Mozilla Public License 2.0 (MPL 2.0)"),
    *("Python Software Foundation License", "3-Clause BSD License"),
}
"""Each lets the product be used and passed on; MPL-2.0 asks for changes of its own files alone."""
MAX_NAME = 40
"""Characters of the name of a licence."""


def faults_of_pins(files: Mapping[str, str]) -> list[str]:
    """Of requirement files, by name."""
    found, versions = [], dict[tuple[str, str], str]()
    for name, text in files.items():
        for entry in re.split(r"\n(?=\S)", text.strip()):
            pin = PIN.match(entry)
            if pin is None:
                found.append(f"{name}: {entry.splitlines()[0]!r} is not pinned: run make lock")
                continue
            package, version, marker = pin.groups()
            if not HASH.search(entry):
                found.append(f"{name}: {package} has no hash: run make lock")
            other = versions.setdefault((package, (marker or "").strip()), version)
            if other != version:
                found.append(f"{name}: {package} is {version}, elsewhere {other}: run make lock")
    return found


def licences(distribution: Distribution) -> set[str]:
    """As its metadata name them; empty when they name none."""
    metadata = distribution.metadata
    expression = str(metadata.json.get("license_expression", ""))
    if expression:
        return {part.strip("() ") for part in re.split(r" (?:AND|OR) ", expression)}
    classifiers = metadata.get_all("Classifier") or []
    found = {c.split(" :: ")[-1] for c in classifiers if c.startswith("License :: ")}
    # Older packages have it in a field of free text, in which some write the whole licence.
    text = str(metadata.json.get("license", ""))
    return found or ({text} if 0 < len(text) <= MAX_NAME else set())


def faults_of_licences(named: Mapping[str, Iterable[str]]) -> list[str]:
    """Of the licences of each package."""
    return [
        f"{package}: {', '.join(sorted(found)) or 'no licence is named'}: see whether it may be "
        "used, then add it to ALLOWED in operator/slm_dev/audit.py"
        for package, found in sorted(named.items())
        if not found or not set(found) <= ALLOWED
    ]


def main() -> int:
    files = {name: (ROOT / name).read_text() for name in FILES}
    installed = {each.metadata["Name"]: licences(each) for each in distributions()}
    faults = faults_of_pins(files) + faults_of_licences(installed)
    for fault in faults:
        print(fault)
    print(f"{len(FILES)} requirement files and {len(installed)} packages: {len(faults)} faults")
    code = 1 if faults else 0
    if shutil.which("pip-audit") is None:
        print("known holes were not looked for: pip-audit is not installed")
        return code
    for name in FILES:
        command = ["pip-audit", "--require-hashes", "--disable-pip", "-r", str(ROOT / name)]
        code |= subprocess.run(command, check=False).returncode
    return code


if __name__ == "__main__":
    sys.exit(main())
