"""Which node a Pod goes to. Pure.

Only Pods and extended resources (names with a domain, such as nvidia.com/gpu) are counted: CPU and
memory are shared by all processes of the host anyway. Selectors, affinities and taints are not
looked at.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from kubernetes.utils.quantity import parse_quantity

from slm_dev.local_node.spec import Json

PODS = "pods"
"""The resource of which each Pod takes one."""


class UnschedulableError(Exception):
    """No node takes the Pod; the text has the words of a scheduler."""


def choose_node(pod: Json, nodes: Iterable[Json], placed: Mapping[str, Sequence[Json]]) -> str:
    """The name of the node with the fewest Pods among those that take this one.

    ``placed`` has the Pods of each node by its name; one that has finished holds nothing.

    Raises:
        UnschedulableError: none takes it.
    """
    counts: dict[str, int] = {}
    reasons: Counter[str] = Counter()
    total = 0
    for node in nodes:
        name = node["metadata"]["name"]
        held = [each for each in placed.get(name, ()) if not _has_finished(each)]
        found = _closed(node) or _lacking(pod, held, _allocatable(node))
        reasons.update(found)
        total += 1
        if not found:
            counts[name] = len(held)
    if counts:
        return min(counts, key=lambda name: (counts[name], name))
    listed = ", ".join(sorted(f"{count} {reason}" for reason, count in reasons.items()))
    raise UnschedulableError(f"0/{total} nodes are available: {listed}.")


def _closed(node: Json) -> list[str]:
    """Why the node takes no Pod at all."""
    if node.get("spec", {}).get("unschedulable"):
        return ["node(s) were unschedulable"]
    conditions = node.get("status", {}).get("conditions") or []
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    return [] if ready else ["node(s) were not ready"]


def _lacking(pod: Json, held: Iterable[Json], allocatable: Mapping[str, int]) -> list[str]:
    free = Counter(allocatable)
    for other in held:
        free.subtract(_requests(other))
    short = (name for name, count in _requests(pod).items() if count > free[name])
    return ["Too many pods" if name == PODS else f"Insufficient {name}" for name in short]


def _allocatable(node: Json) -> dict[str, int]:
    known = node.get("status", {}).get("allocatable") or {}
    return {name: int(parse_quantity(text)) for name, text in known.items() if _counted(name)}


def _requests(pod: Json) -> Counter[str]:
    """Units of each counted resource that the Pod's containers ask for together."""
    total = Counter({PODS: 1})
    for container in pod["spec"]["containers"]:
        requests = (container.get("resources") or {}).get("requests") or {}
        for name, quantity in requests.items():
            if _counted(name):
                total[name] += int(parse_quantity(quantity))
    return total


def _counted(name: str) -> bool:
    return name == PODS or "/" in name


def _has_finished(pod: Json) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
