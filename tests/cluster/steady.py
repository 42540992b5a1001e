"""A service that serves and has nothing to search, for tests of what disturbs it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from product import READY_SECONDS, Json, Product, restrict, told

from slm_dev.cluster import Cluster, until
from slm_dev.cluster.network import COMMENT, run

STEADY = "steady"
PACKS, REPLICAS = 2, 2
CLIENTS = 8
ENGINES = """
import json, os, pathlib, signal, sys
found = {}
for folder in pathlib.Path("/proc").iterdir():
    if folder.name.isdigit():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\\0")
            variables = (folder / "environ").read_bytes().split(b"\\0")
        except OSError:
            continue
        if b"slm_worker.engine.simulated.server" in words:
            (marker,) = (each for each in variables if each.startswith(b"SLM_REPLICA="))
            found[int(marker.rpartition(b"/")[2])] = int(folder.name)
if sys.argv[1:]:
    os.kill(found[int(sys.argv[1])], signal.SIGKILL)
print(json.dumps(found))
"""


@contextmanager
def home_of_its_own(cluster: Cluster) -> Iterator[str]:
    """The name of a new namespace; its services and it are deleted in the end."""
    name = f"chaos-{uuid.uuid4().hex[:6]}"
    restrict(cluster, name)
    yield name
    cluster.kubectl("-n", name, "delete", "slm", "--all")
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def start_steady(product: Product, namespace: str, **spec: Any) -> str:
    """Start a service of two packs with two replicas each, and return its URL once it is whole."""
    product.apply_example(
        *("fixed-replicas.yaml", STEADY, namespace),
        model={"uri": "hf://facebook/opt-1.3b"},
        engine={"kind": "Simulated"},
        gpu={"kind": "Simulated"},
        rollout={"progressDeadline": "10s"},
        **spec,
    )
    await_whole(product, namespace)
    return product.url(STEADY, namespace)


def pack_name(ordinal: int) -> str:
    return f"{STEADY}-pack-{ordinal}"


def engines(product: Product, namespace: str, pack: str, *kill: int) -> dict[int, int]:
    """The process of each replica in a pack, by its index, one of which may be killed."""
    command = ("python", "-c", ENGINES, *map(str, kill))
    found = json.loads(product.cluster.execute(pack, *command, namespace=namespace))
    return {int(index): process for index, process in found.items()}


def await_engines(
    product: Product, namespace: str, pack: str, wanted: int = REPLICAS, gone: int = 0
) -> None:
    """Wait until a pack has so many engines, and the process that is gone is none of them."""

    def missing() -> str:
        running = engines(product, namespace, pack)
        whole = len(running) == wanted and gone not in running.values()
        return "" if whole else f"{running} run; {gone or 'none'} was ended"

    until(f"{wanted} engines in {pack}", missing, READY_SECONDS)


def await_whole(product: Product, namespace: str) -> None:
    """Wait until all replicas are ready."""
    wanted = {"readyPacks": PACKS, "readyReplicas": PACKS * REPLICAS}

    def missing() -> str:
        status = product.status(STEADY, namespace)
        packs = product.packs(STEADY, namespace)
        seen = {key: status.get(key) for key in wanted}
        if seen == wanted and len(packs) == PACKS and all(map(is_ready, packs)):
            return ""
        return f"{seen} of {len(packs)} packs; {told(status)}"

    until("a whole service", missing, READY_SECONDS)


def await_replacement(product: Product, namespace: str, pack: str, gone: str) -> None:
    """Wait until all packs are ready, with a whole one in place of that with this identity.

    The service's own count of replicas follows only when the operator looks again.
    """

    def missing() -> str:
        packs = product.packs(STEADY, namespace)
        if gone in {pod["metadata"]["uid"] for pod in packs}:
            return f"{pack} is still there"
        ready = sum(map(is_ready, packs))
        return "" if ready == PACKS else f"{ready} of {PACKS} packs are ready"

    until(f"another {pack}", missing, READY_SECONDS)
    await_engines(product, namespace, pack)


def identity(product: Product, namespace: str, pack: str) -> str:
    """What tells a pack from the one before it of the same name."""
    uid: str = product.cluster.get(f"pod/{pack}", namespace)["metadata"]["uid"]
    return uid


def is_ready(pod: Json) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def await_reason(product: Product, namespace: str, condition: str, reason: str) -> str:
    """Wait for the reason of a condition and return its message."""
    messages: list[str] = []

    def missing() -> str:
        conditions = product.status(STEADY, namespace).get("conditions", [])
        (found,) = (each for each in conditions if each["type"] == condition)
        messages[:] = [found["message"]]
        return "" if found["reason"] == reason else f"{found['reason']}: {found['message']}"

    until(f"{reason} of {condition}", missing, READY_SECONDS)
    return messages[0]


def patch(product: Product, namespace: str, change: object) -> None:
    how = ("--type=merge", "--patch", json.dumps(change))
    product.cluster.kubectl("-n", namespace, "patch", f"slm/{STEADY}", *how)


def restarts(product: Product, namespace: str) -> dict[str, int]:
    """Of the packs' containers, by the Pods' identities."""
    return {
        pod["metadata"]["uid"]: pod["status"]["containerStatuses"][0]["restartCount"]
        for pod in product.packs(STEADY, namespace)
    }


def addresses(product: Product, namespace: str) -> list[str]:
    """Of the Pods that run. One that has ended, as that of a helm test, loses its own when the
    kubelet starts again."""
    statuses = [pod["status"] for pod in product.cluster.get("pods", namespace)["items"]]
    return [status["podIP"] for status in statuses if status["phase"] == "Running"]


@contextmanager
def dropping(*matches: tuple[str, ...]) -> Iterator[None]:
    """Drop the packets that match: of each, the chain of iptables and its conditions."""
    rules = [
        (chain, *conditions, "-m", "comment", "--comment", COMMENT, "-j", "DROP")
        for chain, *conditions in matches
    ]
    for rule in rules:
        run("iptables", "--wait", "-I", *rule)
    try:
        yield
    finally:
        for rule in rules:
            run("iptables", "--wait", "-D", *rule)
