"""What breaks in a real cluster, and what clients lose by it while they ask."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pods import GPUS
from product import READY_SECONDS, Product, await_completions, load, restrict, told

from slm_dev.cluster import Cluster, until
from slm_dev.cluster.network import COMMENT, run
from slm_dev.release import NAMESPACE

STEADY = "steady"
PACKS, REPLICAS = 2, 2
CLIENTS = 8
LEASE_SECONDS = 15.0
"""After its last renewal the operator's Lease is another's."""
MISSING_IMAGE = "slm.local/nowhere:1"
ENGINES = """
import json, os, pathlib, signal, sys
found = []
for folder in pathlib.Path("/proc").iterdir():
    if folder.name.isdigit():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\\0")
        except OSError:
            continue
        if b"slm_worker.engine.simulated.server" in words:
            found.append(int(folder.name))
if sys.argv[1:] == ["kill"]:
    os.kill(found[0], signal.SIGKILL)
    found = found[:1]
print(json.dumps(sorted(found)))
"""


@pytest.fixture(scope="module")
def home(cluster: Cluster) -> Iterator[str]:
    """The namespace of the service that they share."""
    name = f"chaos-{uuid.uuid4().hex[:6]}"
    restrict(cluster, name)
    yield name
    cluster.kubectl("-n", name, "delete", "slm", "--all")
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def url(product: Product, home: str) -> str:
    """Of a service of two packs with two replicas each, whose search has nothing to do."""
    product.apply_example(
        *("fixed-replicas.yaml", STEADY, home),
        model={"uri": "hf://facebook/opt-1.3b"},
        engine={"kind": "Simulated"},
        gpu={"kind": "Simulated"},
        rollout={"progressDeadline": "10s"},
    )
    return f"http://{await_whole(product, home)}"


def test_a_killed_engine_takes_along_only_what_it_worked_on(
    product: Product, home: str, url: str
) -> None:
    pack = f"{STEADY}-pack-0"

    def engines(*arguments: str) -> list[int]:
        command = ("python", "-c", ENGINES, *arguments)
        found: list[int] = json.loads(product.cluster.execute(pack, *command, namespace=home))
        return found

    before = restarts(product, home)
    with load(url, STEADY, CLIENTS) as counts:
        await_completions(counts, CLIENTS)
        (killed,) = engines("kill")

        def missing() -> str:
            running = engines()
            whole = len(running) == REPLICAS and killed not in running
            return "" if whole else f"{running} run after {killed} was killed"

        until("another engine in its place", missing, READY_SECONDS)
        await_completions(counts, CLIENTS)
    await_whole(product, home)
    assert counts.failed <= CLIENTS, counts
    assert restarts(product, home) == before


def test_a_killed_leader_is_followed_by_another_and_no_request_is_lost(
    product: Product, home: str, url: str
) -> None:
    holder = product.lease_holder()
    with load(url, STEADY, CLIENTS) as counts:
        started = time.monotonic()
        kill_container(product, product.leader(), NAMESPACE)
        until(
            "another leader",
            lambda: "" if product.lease_holder() != holder else "it is the same",
            READY_SECONDS,
        )
        seconds = time.monotonic() - started
        print(f"another operator led {seconds:.1f} s after the leader was killed")
        assert seconds < 3 * LEASE_SECONDS
        # It does not only hold the Lease: it acts.
        product.cluster.kubectl("-n", home, "delete", "pod", f"{STEADY}-pack-1", "--wait=false")
        await_whole(product, home)
        await_completions(counts, CLIENTS)
    assert counts.failed == 0, counts


@pytest.mark.parametrize("program", ["kubelet", "containerd"])
def test_packs_serve_on_without_a_part_of_their_node(
    product: Product, cluster: Cluster, home: str, url: str, program: str
) -> None:
    before = restarts(product, home)
    with load(url, STEADY, CLIENTS) as counts:
        cluster.stop_program(program)
        try:
            await_completions(counts, 3 * CLIENTS)
        finally:
            cluster.start_program(program)
        await_completions(counts, CLIENTS)
        cluster.wait(f"node/{cluster.layout.node}")
        await_whole(product, home)
    assert counts.failed == 0, counts
    assert restarts(product, home) == before


def test_an_operator_that_reaches_no_agent_says_so_and_the_packs_serve_on(
    product: Product, home: str, url: str
) -> None:
    with load(url, STEADY, CLIENTS) as counts:
        with parted(addresses(product, NAMESPACE), addresses(product, home)):
            await_reason(product, home, "MetricsAvailable", "AgentUnreachable")
            await_completions(counts, CLIENTS)
        await_reason(product, home, "MetricsAvailable", "Measured")
        await_completions(counts, CLIENTS)
    await_whole(product, home)
    assert counts.failed == 0, counts


def test_a_rollout_to_an_image_that_is_nowhere_is_rolled_back_and_costs_nothing(
    product: Product, home: str, url: str
) -> None:
    before = {pod["metadata"]["uid"] for pod in product.packs(STEADY, home)}
    with load(url, STEADY, CLIENTS) as counts:
        patch(product, home, {"spec": {"engine": {"image": MISSING_IMAGE}}})
        await_reason(product, home, "Progressing", "RolledBack")
        await_completions(counts, CLIENTS)
        patch(product, home, {"spec": {"engine": {"image": None}}})
        await_whole(product, home)
    assert {pod["metadata"]["uid"] for pod in product.packs(STEADY, home)} == before
    assert counts.failed == 0, counts


def test_a_service_waits_for_a_gpu_that_is_unhealthy_and_gets_it_when_it_is_well(
    product: Product, cluster: Cluster, namespace: str
) -> None:
    try:
        cluster.set_unhealthy_gpus(*(f"GPU-sim-{number}" for number in range(GPUS)))

        def offered() -> str:
            node = cluster.get(f"node/{cluster.layout.node}")["status"]
            gpus: str = node["allocatable"]["nvidia.com/gpu"]
            return "" if gpus == "0" else f"{gpus} are"

        until("a node without a healthy GPU", offered, READY_SECONDS)
        product.apply_example("smallest.yaml", "waiting", namespace)
        message = await_condition(product, "waiting", namespace, "GPUAllocated", "False")
        assert "nvidia.com/gpu" in message
    finally:
        cluster.set_unhealthy_gpus()
    await_condition(product, "waiting", namespace, "GPUAllocated", "True")
    cluster.kubectl("-n", namespace, "delete", "slm/waiting")


def await_whole(product: Product, namespace: str) -> str:
    """Wait until all replicas are ready, and return the address of the Service."""
    wanted = {"readyPacks": PACKS, "readyReplicas": PACKS * REPLICAS}

    def missing() -> str:
        status = product.status(STEADY, namespace)
        packs = product.packs(STEADY, namespace)
        seen = {key: status.get(key) for key in wanted}
        if seen == wanted and len(packs) == PACKS and all(map(is_ready, packs)):
            return ""
        return f"{seen} of {len(packs)} packs; {told(status)}"

    until("a whole service", missing, READY_SECONDS)
    return product.cluster.service_address(STEADY, namespace)


def is_ready(pod: dict[str, dict[str, list[dict[str, str]]]]) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def await_reason(product: Product, namespace: str, condition: str, reason: str) -> None:
    def missing() -> str:
        conditions = product.status(STEADY, namespace).get("conditions", [])
        (found,) = (each for each in conditions if each["type"] == condition)
        return "" if found["reason"] == reason else f"{found['reason']}: {found['message']}"

    until(f"{reason} of {condition}", missing, READY_SECONDS)


def await_condition(
    product: Product, name: str, namespace: str, condition: str, status: str
) -> str:
    """Wait for the status of a condition and return its message."""
    messages: list[str] = []

    def missing() -> str:
        conditions = product.status(name, namespace).get("conditions", [])
        found = [each for each in conditions if each["type"] == condition]
        messages[:] = [each["message"] for each in found if each["status"] == status]
        return "" if messages else str(found)

    until(f"{condition} {status}", missing, READY_SECONDS)
    return messages[0]


def patch(product: Product, namespace: str, change: object) -> None:
    how = ("--type=merge", "--patch", json.dumps(change))
    product.cluster.kubectl("-n", namespace, "patch", f"slm/{STEADY}", *how)


def kill_container(product: Product, pod: str, namespace: str) -> None:
    """End a Pod's container as a crash would: its own first process cannot be told to."""
    (status,) = product.cluster.get(f"pod/{pod}", namespace)["status"]["containerStatuses"]
    name = status["containerID"].removeprefix("containerd://")
    containerd = ("ctr", "-a", str(product.cluster.layout.containerd_socket), "-n", "k8s.io")
    run(*containerd, "tasks", "kill", "--signal", "SIGKILL", name)


def restarts(product: Product, namespace: str) -> dict[str, int]:
    """Of the packs' containers, by the Pods' identities."""
    return {
        pod["metadata"]["uid"]: pod["status"]["containerStatuses"][0]["restartCount"]
        for pod in product.packs(STEADY, namespace)
    }


def addresses(product: Product, namespace: str) -> list[str]:
    return [pod["status"]["podIP"] for pod in product.cluster.get("pods", namespace)["items"]]


@contextmanager
def parted(these: list[str], those: list[str]) -> Iterator[None]:
    """Let no packet pass between Pods of these and those addresses."""
    rules = [
        ("FORWARD", "-s", a, "-d", b, "-m", "comment", "--comment", COMMENT, "-j", "DROP")
        for here, there in ((these, those), (those, these))
        for a in here
        for b in there
    ]
    for rule in rules:
        run("iptables", "-I", *rule)
    try:
        yield
    finally:
        for rule in rules:
            run("iptables", "-D", *rule)
