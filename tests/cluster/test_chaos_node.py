"""What fails around and below the packs: network, DNS, disk, memory and the node itself."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from functools import partial

import pytest
from product import READY_SECONDS, Product, await_completions, load
from prometheus_client.parser import text_string_to_metric_families
from steady import (
    CLIENTS,
    PACKS,
    REPLICAS,
    STEADY,
    addresses,
    await_engines,
    await_reason,
    await_replacement,
    await_whole,
    dropping,
    engines,
    home_of_its_own,
    identity,
    pack_name,
    patch,
    restarts,
    start_steady,
)

from slm_dev.cluster import Cluster, until
from slm_dev.cluster.network import run
from slm_dev.release import NAMESPACE
from slm_worker.wire import AGENT_PORT, ROUTER_PORT

LOSS = ("-m", "statistic", "--mode", "random", "--probability", "0.1")
"""One packet of ten: a network that works, and badly."""
FEW_CLIENTS = 2
"""So that a pack that starts meanwhile has the most of a small machine."""
SCRATCH, SCRATCH_LIMIT_MEBIBYTES = "scratch", 16
MEMORY_LIMIT_BYTES = 2**31
"""The kernel ends the process with the highest score. A victim's is above all others by what the
kubelet took off theirs for the memory that the Pod asks for: the more, the surer its end."""
LOOK_UP = """
import os, socket, sys
os.environ["RES_OPTIONS"] = "timeout:1 attempts:1"
try:
    print(socket.getaddrinfo(sys.argv[1], 80)[0][4][0])
except socket.gaierror as error:
    print(f"unknown: {error}")
"""
FILL = """
import pathlib, sys
path, mebibytes = sys.argv[1:]
pathlib.Path(path).write_bytes(bytes(int(mebibytes) * 2**20))
"""
PRESS = """
import os, pathlib, select, sys
victim = int(sys.argv[1])
pathlib.Path(f"/proc/{victim}/oom_score_adj").write_text("1000")
ended = os.pidfd_open(victim)
# A file in memory counts for the container, and belongs to no process that the kernel could end.
with open("/dev/shm/held", "wb", buffering=0) as held:
    os.unlink(held.name)
    # Slowly: until the victim is gone there is what it held to take, and then the next one's.
    while not select.select([ended], [], [], 0.005)[0]:
        held.write(bytes(2**20))
"""
"""The engine of that process is the one that the kernel ends first, as soon as memory is short."""


@pytest.fixture(scope="module")
def home(cluster: Cluster) -> Iterator[str]:
    """The namespace of the service that they share."""
    with home_of_its_own(cluster) as name:
        yield name


@pytest.fixture(scope="module")
def url(product: Product, home: str) -> str:
    """Of that service, whose packs have limits of memory and of one volume."""
    scratch = {
        "name": SCRATCH,
        "mountPath": f"/{SCRATCH}",
        "emptyDir": {"sizeLimit": f"{SCRATCH_LIMIT_MEBIBYTES}Mi"},
    }
    limits = {"memory": str(MEMORY_LIMIT_BYTES)}
    added = {"resources": {"limits": limits}, "volumes": [scratch]}
    return start_steady(product, home, podTemplate=added)


def test_a_lossy_network_costs_clients_time_and_no_request(
    product: Product, home: str, url: str
) -> None:
    packs, operators = addresses(product, home), addresses(product, NAMESPACE)
    port = str(ROUTER_PORT)
    clients = [
        way
        for pack in packs
        for way in (
            ("OUTPUT", "-d", pack, "-p", "tcp", "--dport", port, *LOSS),
            ("INPUT", "-s", pack, "-p", "tcp", "--sport", port, *LOSS),
        )
    ]
    operator = [
        ("FORWARD", "-s", a, "-d", b, *LOSS)
        for pack in packs
        for each in operators
        for a, b in ((pack, each), (each, pack))
    ]
    with load(url, STEADY, CLIENTS) as counts:
        with dropping(*clients, *operator):
            await_completions(counts, CLIENTS)
            # It reads what runs, and is heard.
            for replicas in (REPLICAS - 1, REPLICAS):
                patch(product, home, {"spec": {"replicasPerPack": replicas}})
                for pack in map(pack_name, range(PACKS)):
                    await_engines(product, home, pack, replicas)
            await_completions(counts, CLIENTS)
            for chain in ("OUTPUT", "INPUT", "FORWARD"):
                until(f"a lost packet in {chain}", partial(_lost, chain), READY_SECONDS)
        await_reason(product, home, "MetricsAvailable", "Measured")
        await_completions(counts, CLIENTS)
    assert counts.failed == 0, counts


def test_without_dns_packs_serve_and_are_made(
    product: Product, cluster: Cluster, home: str, url: str
) -> None:
    name = f"{STEADY}.{home}.svc.cluster.local."

    def known() -> bool:
        command = ("python", "-c", LOOK_UP, name)
        found = cluster.execute(pack_name(0), *command, namespace=home).strip()
        return bool(re.fullmatch(r"[\d.]+", found))

    def scale_dns(replicas: int) -> None:
        cluster.kubectl(
            *("-n", "kube-system", "scale", "deployment/coredns", f"--replicas={replicas}")
        )

    pack = pack_name(1)
    before = identity(product, home, pack)
    assert known()
    with load(url, STEADY, FEW_CLIENTS) as counts:
        scale_dns(0)
        try:
            until("a cluster without names", lambda: name if known() else "", READY_SECONDS)
            cluster.kubectl("-n", home, "delete", f"pod/{pack}", "--wait=false")
            await_replacement(product, home, pack, before)
            await_completions(counts, FEW_CLIENTS)
        finally:
            scale_dns(1)
        until("the names again", lambda: "" if known() else "unknown", READY_SECONDS)
    assert counts.failed == 0, counts


def test_a_pack_that_fills_its_volume_is_replaced_and_the_service_says_why(
    product: Product, cluster: Cluster, home: str, url: str
) -> None:
    full = pack_name(1)
    before = identity(product, home, full)
    amount = str(2 * SCRATCH_LIMIT_MEBIBYTES)
    with load(url, STEADY, FEW_CLIENTS) as counts:
        command = ("python", "-c", FILL, f"/{SCRATCH}/fill", amount)
        cluster.execute(full, *command, namespace=home)
        await_replacement(product, home, full, before)
        await_completions(counts, FEW_CLIENTS)
    # The kubelet ends it without a grace: what it worked on is lost.
    assert counts.failed <= FEW_CLIENTS, counts
    (told,) = _told(product, home, "Evicted")
    assert f'volume "{SCRATCH}" exceeds the limit "{SCRATCH_LIMIT_MEBIBYTES}Mi"' in told
    assert "spec.podTemplate.volumes" in told


def test_want_of_memory_ends_one_replica_and_its_pack_says_so(
    product: Product, cluster: Cluster, home: str, url: str
) -> None:
    pack, victim, other = pack_name(0), 1, 0
    before = restarts(product, home)
    gone = engines(product, home, pack)[victim]
    with load(url, STEADY, CLIENTS) as counts:
        await_completions(counts, CLIENTS)
        cluster.execute(pack, "python", "-c", PRESS, str(gone), namespace=home)
        await_engines(product, home, pack, REPLICAS, gone)
        await_completions(counts, CLIENTS)
    broken = _broken_by_replica(cluster.get(f"pod/{pack}", home)["status"]["podIP"])
    assert counts.failed <= CLIENTS, counts
    assert broken[other] == 0, broken
    assert restarts(product, home) == before
    log = cluster.kubectl("-n", home, "logs", pack)
    assert (
        f"OutOfMemory: the kernel ended it because the container reached its memory limit of "
        f"{MEMORY_LIMIT_BYTES:,} bytes" in log
    )


def test_packs_of_a_node_that_no_longer_reports_serve_on(
    product: Product, cluster: Cluster, home: str, url: str
) -> None:
    before = restarts(product, home)
    packs = cluster.get("pods", home)["items"]
    assert len(packs) == PACKS
    # Kubernetes takes all Pods of such a node out of their Services.
    router = f"http://{packs[0]['status']['podIP']}:{ROUTER_PORT}"
    with load(router, STEADY, CLIENTS) as counts:
        cluster.stop_program("kubelet")
        try:
            message = await_reason(product, home, "Ready", "NodeNotReady")
            await_completions(counts, CLIENTS)
            agents = await_reason(product, home, "MetricsAvailable", "Measured")
        finally:
            cluster.start_program("kubelet")
        await_whole(product, home)
        await_completions(counts, CLIENTS)
    assert cluster.layout.node in message
    assert agents
    assert counts.failed == 0, counts
    assert restarts(product, home) == before
    await_led_to_packs(url)
    with load(url, STEADY, CLIENTS) as after:
        await_completions(after, CLIENTS)
    assert after.failed == 0, after


def await_led_to_packs(url: str) -> None:
    """Wait until kube-proxy, too, has heard that the Service has packs again."""

    def unanswered() -> str:
        try:
            with urllib.request.urlopen(f"{url}/v1/models", timeout=5):  # noqa: S310 - the Service
                return ""
        except OSError as error:
            return str(error)

    until("a Service that leads to its packs", unanswered, READY_SECONDS)


def _lost(chain: str) -> str:
    """Empty once a packet was dropped by chance in a chain of iptables."""
    rules = re.findall(
        rf"^\[(\d+):\d+\] -A {chain} .*-m statistic ", run("iptables-save", "-c"), re.M
    )
    return "" if any(map(int, rules)) else f"none of {len(rules)} rules dropped one"


def _told(product: Product, namespace: str, reason: str) -> list[str]:
    """What the events of the service with that reason say."""
    listed = product.cluster.get("events", namespace)["items"]
    return [
        each["message"]
        for each in listed
        if (each["involvedObject"]["kind"], each["reason"]) == ("SLMService", reason)
    ]


def _broken_by_replica(address: str) -> dict[int, float]:
    """Answers that a pack's replicas ended before they were whole, or with an error."""
    with urllib.request.urlopen(f"http://{address}:{AGENT_PORT}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    found = dict.fromkeys(range(REPLICAS), 0.0)
    for family in families:
        if family.name in ("slm_pack_replica_cut", "slm_pack_replica_failed"):
            for sample in family.samples:
                found[int(sample.labels["replica"])] += sample.value
    return found
