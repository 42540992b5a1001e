"""Where the output of containers is kept."""

import os
from pathlib import Path

from slm_dev.local_node.spec import PodSpec

# The kubelet's limits for a termination message that is taken from the log.
_LAST_MESSAGE_BYTES = 2048
_LAST_MESSAGE_LINES = 80


def path(root: Path, pod: PodSpec, container: str, attempt: int) -> Path:
    """The log of one attempt; its older half, if there is one, is beside it with `.1` added."""
    return root / f"{pod.namespace}_{pod.name}_{container}_{attempt}.log"


def forget_attempt(root: Path, pod: PodSpec, container: str, attempt: int) -> None:
    """Removes the log of one attempt, if there is one."""
    _remove(path(root, pod, container, attempt))


def forget(root: Path, pod: PodSpec) -> None:
    """Removes all logs of a Pod."""
    for found in _of_pod(root, pod.namespace, pod.name):
        _remove(found)


def read(root: Path, namespace: str, pod: str) -> str:
    """What the Pod's containers wrote in their last two attempts, oldest first.

    Raises:
        FileNotFoundError: the node runs no such Pod, or has not started it yet.
    """
    found = _of_pod(root, namespace, pod)
    if not found:
        raise FileNotFoundError(f"no logs of pod {namespace}/{pod} in {root}")
    parts = [part for each in found for part in (_older_half(each), each) if part.exists()]
    return "".join(part.read_text(errors="replace") for part in parts)


def last_message(log: Path) -> str:
    """The end of a log, as the kubelet takes it for a termination message; empty for none."""
    if not log.exists():
        return ""
    with log.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _LAST_MESSAGE_BYTES))
        lines = stream.read().decode(errors="replace").splitlines(keepends=True)
    return "".join(lines[-_LAST_MESSAGE_LINES:])


def _of_pod(root: Path, namespace: str, pod: str) -> list[Path]:
    found = root.glob(f"{namespace}_{pod}_*.log")
    return sorted(found, key=lambda each: (each.stem.split("_")[2], int(each.stem.split("_")[3])))


def _older_half(log: Path) -> Path:
    return log.with_name(log.name + ".1")


def _remove(log: Path) -> None:
    log.unlink(missing_ok=True)
    _older_half(log).unlink(missing_ok=True)
