"""Removes every trace of a cluster from the host, whether it runs, was stopped or has crashed."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from slm_dev.cluster import kernel, network
from slm_dev.cluster.layout import Layout
from slm_dev.cluster.network import HostError, run
from slm_dev.cluster.process import DetachedProcess, end, start_time

HOST_RECORD = "host.json"
"""Of the kernel's settings before the cluster, in the folder of its data."""
_CGROUPS = Path("/sys/fs/cgroup")
_KUBELET_FIXED = Path("/var/lib/kubelet")
_CONTAINER_LOGS = Path("/var/log/containers")
_SHIM_SOCKETS = Path("/run/containerd")
_CNI_RESULTS = Path("/var/lib/cni")
_GONE_SECONDS = 20.0


def remove(layout: Layout, processes: list[DetachedProcess]) -> None:
    """Remove the cluster; `processes` are its programs, in the order in which they are ended.

    Raises:
        HostError: something of it cannot be removed.
    """
    for process in processes:
        process.stop()
    _end_shims(layout)
    _end_containers(layout)
    _unmount(layout)
    network.remove(layout)
    _remove_fixed_paths(layout)
    kernel.restore(layout.data / HOST_RECORD)
    shutil.rmtree(layout.runtime, ignore_errors=True)
    # Last, since it holds what is needed to try again.
    shutil.rmtree(layout.data, ignore_errors=True)
    for folder in (layout.runtime, layout.data):
        if folder.exists():
            raise HostError(f"{folder} could not be removed: see what holds its files open")


def _end_shims(layout: Layout) -> None:
    """End the processes between containerd and containers, which outlive it by design."""
    for pid in _processes_of(layout):
        if not end(pid, signal.SIGKILL, _GONE_SECONDS):
            raise HostError(f"process {pid}, of the cluster's containerd, does not end")


def _processes_of(layout: Layout) -> Iterator[int]:
    mark = str(layout.containerd_socket).encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                arguments = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"containerd-shim" in arguments[0] and mark in arguments:
                yield int(folder.name)


def _end_containers(layout: Layout) -> None:
    """End what runs in the cluster's control groups, and remove them."""
    deadline = time.monotonic() + _GONE_SECONDS
    while groups := _control_groups(layout):
        for group in groups:
            for pid in (group / "cgroup.procs").read_text().split():
                if start_time(int(pid)) is not None:
                    os.kill(int(pid), signal.SIGKILL)
            try:
                group.rmdir()
            except OSError:
                continue
        if time.monotonic() > deadline:
            raise HostError(f"control groups remain: {', '.join(map(str, groups))}")
        time.sleep(0.05)


def hierarchies() -> list[Path]:
    """The control group hierarchies of the host: one of version 2, or one for each controller."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    return [folder for folder in _CGROUPS.iterdir() if (folder / "cgroup.procs").exists()]


def _control_groups(layout: Layout) -> list[Path]:
    """The cluster's control groups in all hierarchies, those within others first."""
    roots = [hierarchy / layout.cgroup for hierarchy in hierarchies()]
    return [
        Path(folder)
        for root in roots
        for folder, _, _ in os.walk(root, topdown=False)
        if Path(folder).is_dir()
    ]


def _unmount(layout: Layout) -> None:
    # One on top of another comes later in the list, and has to go first.
    for point in reversed(mounts_within(layout)):
        run("umount", "--lazy", str(point))


def mounts_within(layout: Layout) -> list[Path]:
    """Mount points below the cluster's folders."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        # The fifth field, in which a space is written \040; see proc(5).
        point = Path(line.split()[4].replace("\\040", " "))
        if layout.data in point.parents or layout.runtime in point.parents:
            points.append(point)
    return points


def _remove_fixed_paths(layout: Layout) -> None:
    """Remove what the cluster's programs write where no setting changes it."""
    shutil.rmtree(_KUBELET_FIXED / "device-plugins", ignore_errors=True)
    for link in _CONTAINER_LOGS.glob("*.log"):
        if link.is_symlink() and layout.pod_logs in link.readlink().parents:
            link.unlink()
    for address in layout.runtime.glob("containerd/io.containerd.runtime.v2.task/*/*/address"):
        Path(address.read_text().strip().removeprefix("unix://")).unlink(missing_ok=True)
    sandboxes = layout.data / "containerd" / "io.containerd.grpc.v1.cri" / "sandboxes"
    for sandbox in sandboxes.glob("*"):
        # Named by network, sandbox and device; the loopback network bears no name of ours.
        for result in (_CNI_RESULTS / "results").glob(f"*-{sandbox.name}-*"):
            result.unlink()
    for folder in (
        _KUBELET_FIXED,
        _CONTAINER_LOGS,
        _SHIM_SOCKETS / "s",
        _SHIM_SOCKETS,
        _CNI_RESULTS / "results",
        _CNI_RESULTS,
    ):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
