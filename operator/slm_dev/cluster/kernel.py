"""Kernel settings that the cluster changes: what they were, and putting them back."""

import json
from pathlib import Path

_SYSCTL = Path("/proc/sys")
_FORWARDING = "net/ipv4/ip_forward"
# The kubelet sets these; see setupKernelTunables in its pkg/kubelet/cm.
_CHANGED = (
    _FORWARDING,
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)


def save(record: Path) -> None:
    """Write the settings of the host as it is without a cluster."""
    present = [name for name in _CHANGED if (_SYSCTL / name).exists()]
    record.write_text(json.dumps({name: (_SYSCTL / name).read_text() for name in present}))


def forward_packets() -> None:
    """Let the host forward packets between its links, as it has to between Pods."""
    (_SYSCTL / _FORWARDING).write_text("1")


def restore(record: Path) -> None:
    """Put back what `save` wrote; nothing is done without its record."""
    if not record.exists():
        return
    for name, value in json.loads(record.read_text()).items():
        if (_SYSCTL / name).read_text() != value:
            (_SYSCTL / name).write_text(value)
