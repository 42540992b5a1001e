"""What breaks in a real cluster, and what clients lose by it while they ask."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from pods import GPUS
from product import READY_SECONDS, Product, await_completions, load
from steady import (
    CLIENTS,
    STEADY,
    addresses,
    await_engines,
    await_reason,
    await_whole,
    dropping,
    engines,
    home_of_its_own,
    pack_name,
    patch,
    restarts,
    start_steady,
)

from slm_dev.cluster import Cluster, until
from slm_dev.cluster.network import run
from slm_dev.release import NAMESPACE
from slm_worker.wire import ROUTER_PORT

LEASE_SECONDS = 15.0
"""After its last renewal the operator's Lease is another's."""
HEARTBEAT = timedelta(seconds=10)
"""The kubelet tells of its node so often, and has looked at containerd twice by then."""
MISSING_IMAGE = "slm.local/nowhere:1"


@pytest.fixture(scope="module")
def home(cluster: Cluster) -> Iterator[str]:
    """The namespace of the service that they share."""
    with home_of_its_own(cluster) as name:
        yield name


@pytest.fixture(scope="module")
def url(product: Product, home: str) -> str:
    """Of that service."""
    return start_steady(product, home)


def test_a_killed_engine_takes_along_only_what_it_worked_on(
    product: Product, home: str, url: str
) -> None:
    pack = pack_name(0)
    before = restarts(product, home)
    with load(url, STEADY, CLIENTS) as counts:
        await_completions(counts, CLIENTS)
        killed = engines(product, home, pack, 0)[0]
        await_engines(product, home, pack, gone=killed)
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
        product.cluster.kubectl("-n", home, "delete", "pod", pack_name(1), "--wait=false")
        await_whole(product, home)
        await_completions(counts, CLIENTS)
    assert counts.failed == 0, counts


@pytest.mark.parametrize("program", ["kubelet", "containerd"])
def test_packs_serve_on_without_a_part_of_their_node(
    product: Product, cluster: Cluster, home: str, url: str, program: str
) -> None:
    before = restarts(product, home)
    router = f"http://{addresses(product, home)[0]}:{ROUTER_PORT}"
    with load(router, STEADY, CLIENTS) as counts:
        cluster.stop_program(program)
        try:
            with load(url, STEADY, CLIENTS) as through_service:
                await_completions(through_service, 3 * CLIENTS)
        finally:
            cluster.start_program(program)
        await_heartbeat(cluster, datetime.now(UTC) + HEARTBEAT)
        await_whole(product, home)
        await_completions(counts, CLIENTS)
    assert through_service.failed == 0, through_service
    assert counts.failed == 0, counts
    assert restarts(product, home) == before


def test_an_operator_that_reaches_no_agent_says_so_and_the_packs_serve_on(
    product: Product, home: str, url: str
) -> None:
    with load(url, STEADY, CLIENTS) as counts:
        operators, packs = addresses(product, NAMESPACE), addresses(product, home)
        ways = [way for a in operators for b in packs for way in ((a, b), (b, a))]
        with dropping(*(("FORWARD", "-s", a, "-d", b) for a, b in ways)):
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


def await_heartbeat(cluster: Cluster, since: datetime) -> None:
    """Wait until a node said later than then that it is ready.

    A containerd that has just started has no network yet. A kubelet that looks at that moment says
    that its node is not ready, and Kubernetes takes all of the node's Pods out of their Services.
    """

    def missing() -> str:
        conditions = cluster.get(f"node/{cluster.layout.node}")["status"]["conditions"]
        (ready,) = (each for each in conditions if each["type"] == "Ready")
        told = datetime.fromisoformat(ready["lastHeartbeatTime"])
        return "" if ready["status"] == "True" and told > since else str(ready)

    until("a node that is ready", missing, READY_SECONDS)


def kill_container(product: Product, pod: str, namespace: str) -> None:
    """End a Pod's container as a crash would: its own first process cannot be told to."""
    (status,) = product.cluster.get(f"pod/{pod}", namespace)["status"]["containerStatuses"]
    name = status["containerID"].removeprefix("containerd://")
    containerd = ("ctr", "-a", str(product.cluster.layout.containerd_socket), "-n", "k8s.io")
    run(*containerd, "tasks", "kill", "--signal", "SIGKILL", name)
