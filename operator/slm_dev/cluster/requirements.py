"""What the development cluster needs of the host.

Standard library only, since `make setup-cluster` asks before there is a virtual environment.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

PACKAGES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables-save": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "ethtool": "ethtool",
    "socat": "socat",
    "openssl": "openssl",
}
"""The Debian package of each program."""
CNI_PLUGINS = Path("/usr/lib/cni")
"""Where Debian's containernetworking-plugins puts them."""
_CNI_PROGRAMS = ("ptp", "host-local", "loopback")
# Debian keeps them off an ordinary user's PATH.
_ADMINISTRATION = "/usr/local/sbin:/usr/sbin:/sbin"
_FOREIGN_KUBELET = Path("/var/lib/kubelet/config.yaml")
_CONTROLLERS = ("cpu", "memory", "pids")


def search_path() -> str:
    """PATH with the folders of programs for administration."""
    return f"{os.environ.get('PATH', '')}:{_ADMINISTRATION}"


def missing_packages() -> list[str]:
    """Debian packages that have to be installed first."""
    path = search_path()
    missing = {package for name, package in PACKAGES.items() if not shutil.which(name, path=path)}
    if not all((CNI_PLUGINS / name).is_file() for name in _CNI_PROGRAMS):
        missing.add("containernetworking-plugins")
    return sorted(missing)


def obstacles() -> list[str]:
    """Why a cluster cannot run here, one sentence each with its remedy; empty if it can."""
    found = []
    if os.geteuid() != 0:
        found.append("it needs root, for namespaces, mounts and iptables: run it as root")
    missing = missing_packages()
    if missing:
        found.append(f"it needs {', '.join(missing)}: run `make setup-cluster` as root")
    controllers = _cgroup_controllers()
    absent = [name for name in _CONTROLLERS if name not in controllers]
    if absent:
        found.append(
            f"the host's control groups lack {', '.join(absent)}: mount cgroup v1 hierarchies or "
            "cgroup v2 with them at /sys/fs/cgroup"
        )
    if _FOREIGN_KUBELET.exists():
        found.append(
            f"{_FOREIGN_KUBELET} says that this host is a node of another cluster: stop that "
            "kubelet and move its file away, or use a host of its own"
        )
    return found


def _cgroup_controllers() -> set[str]:
    root = Path("/sys/fs/cgroup")
    unified = root / "cgroup.controllers"
    if unified.exists():
        return set(unified.read_text().split())
    return {folder.name for folder in root.glob("*") if (folder / "cgroup.procs").exists()}
