"""Checks the system packages that demo and tests need, and installs missing ones where it may.

Runs before the virtual environment exists: standard library only.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys


def missing_packages() -> list[str]:
    """Debian packages whose program or library is absent."""
    missing = []
    if shutil.which("haproxy") is None and shutil.which("haproxy", path="/usr/sbin") is None:
        missing.append("haproxy")
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        missing.append("libnuma1")
    if shutil.which("cc") is None:
        missing.append("gcc")
    return missing


def install(missing: list[str]) -> int:
    """Install Debian packages by apt, or say how where that is not possible.

    Returns the process's exit code.
    """
    if not missing:
        return 0
    command = f"apt-get install {' '.join(missing)}"
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        print(f"missing: {', '.join(missing)}. Install them, e.g.: sudo {command}", file=sys.stderr)
        return 1
    print(f"installing {', '.join(missing)}", file=sys.stderr)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update", "-qq"], ["install", "-y", "-qq", *missing]):
        done = subprocess.run(["apt-get", *arguments], env=environment, capture_output=True)
        if done.returncode != 0:
            print(done.stderr.decode(errors="replace")[-2000:], file=sys.stderr)
            print(f"{command} failed: install {', '.join(missing)} by hand", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(install(missing_packages()))
