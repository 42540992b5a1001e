"""Whether a Pod fits on the one node. Pure.

Only Pods and extended resources (names with a domain, such as nvidia.com/gpu) are counted: CPU and
memory are shared by all processes of the host anyway. Selectors, affinities and taints are not
looked at.
"""

from collections.abc import Iterable, Mapping

from kubernetes.utils.quantity import parse_quantity

from slm_dev.local_node.spec import Json


def extended_requests(pod: Json) -> dict[str, int]:
    """Units of each extended resource that the Pod's containers ask for together."""
    total: dict[str, int] = {}
    for container in pod["spec"]["containers"]:
        resources = container.get("resources") or {}
        for name, quantity in (resources.get("requests") or {}).items():
            if "/" in name:
                total[name] = total.get(name, 0) + int(parse_quantity(quantity))
    return total


PODS = "pods"
"""The resource of which each Pod takes one."""


def insufficient(pod: Json, placed: Iterable[Json], capacity: Mapping[str, int]) -> str | None:
    """Why the Pod does not fit beside those placed already; None if it does.

    The words are those of a scheduler. A placed Pod that has finished holds nothing. A capacity
    that names no ``pods`` takes any number.
    """
    free = dict(capacity)
    for other in placed:
        if other.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
            for name, count in _requests(other, capacity).items():
                free[name] = free.get(name, 0) - count
    wanted = _requests(pod, capacity)
    lacking = sorted(name for name, count in wanted.items() if count > free.get(name, 0))
    if not lacking:
        return None
    return f"0/1 nodes are available: {', '.join(map(_lack, lacking))}."


def _requests(pod: Json, capacity: Mapping[str, int]) -> dict[str, int]:
    return extended_requests(pod) | ({PODS: 1} if PODS in capacity else {})


def _lack(name: str) -> str:
    return "1 Too many pods" if name == PODS else f"1 Insufficient {name}"
