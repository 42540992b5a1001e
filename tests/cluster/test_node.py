"""The development cluster: what makes it a real one, and that it leaves nothing behind."""

import json
import socket
import subprocess
import time
from pathlib import Path

import pytest
from pods import GPUS, probe, service

from slm_dev.cluster import Cluster, KubectlError, until
from slm_dev.cluster.requirements import search_path
from slm_dev.cluster.teardown import hierarchies

LOADED_SECONDS = 180.0


def test_its_node_is_ready_and_offers_the_simulated_gpus(cluster: Cluster) -> None:
    cluster.wait(f"node/{cluster.layout.node}")
    assert _allocatable(cluster) == GPUS


def test_a_pod_reaches_another_by_the_name_of_its_service(cluster: Cluster, namespace: str) -> None:
    cluster.apply(probe("server", namespace), service("server", namespace))
    cluster.apply(probe("client", namespace))
    for name in ("server", "client"):
        cluster.wait(f"pod/{name}", namespace=namespace)
    url = f"http://server.{namespace}.svc.cluster.local/"

    answers: list[str] = []

    def answer() -> str:
        # The Service's rules and name follow the Pod's readiness by moments.
        try:
            answers.append(
                cluster.execute("client", "/probe", "get", url, namespace=namespace).strip()
            )
        except KubectlError as error:
            return str(error)
        return ""

    until("an answer by DNS and Service", answer, LOADED_SECONDS)
    assert answers == ["server"]


def test_the_host_reaches_a_service_and_a_pod_its_own(cluster: Cluster, namespace: str) -> None:
    cluster.apply(probe("server", namespace), service("server", namespace))
    cluster.wait("pod/server", namespace=namespace)
    address = cluster.service_address("server", namespace)

    def missing() -> str:
        try:
            assert cluster.execute(
                "server", "/probe", "get", f"http://{address}/", namespace=namespace
            )
        except KubectlError as error:
            return str(error)
        from_host = subprocess.run(
            ["curl", "--silent", "--max-time", "5", f"http://{address}/"],
            capture_output=True,
            text=True,
            check=False,
        )
        return "" if from_host.stdout.strip() == "server" else from_host.stderr or "no answer"

    until("an answer to the host", missing, LOADED_SECONDS)


def test_an_address_of_no_service_is_refused_and_leads_nowhere_else(cluster: Cluster) -> None:
    nobody = str(cluster.layout.services.broadcast_address - 1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((nobody, 80), timeout=30)


def test_pods_get_their_gpus_and_one_too_many_stays_pending(
    cluster: Cluster, namespace: str
) -> None:
    cluster.apply(*(probe(f"gpu-{number}", namespace, gpus=1) for number in range(GPUS + 1)))

    def scheduled() -> list[str]:
        pods = cluster.get("pods", namespace)["items"]
        return [pod["metadata"]["name"] for pod in pods if pod["spec"].get("nodeName")]

    def missing() -> str:
        pods = cluster.get("pods", namespace)["items"]
        words = [
            condition.get("message", "")
            for pod in pods
            for condition in pod.get("status", {}).get("conditions", [])
            if condition["type"] == "PodScheduled" and condition["status"] == "False"
        ]
        found = any("Insufficient nvidia.com/gpu" in each for each in words)
        return "" if found else f"the scheduler says {words}"

    until("the scheduler's refusal", missing, LOADED_SECONDS)
    assert len(scheduled()) == GPUS


def test_an_unhealthy_gpu_is_not_allocatable_until_it_is_well_again(cluster: Cluster) -> None:
    try:
        cluster.set_unhealthy_gpus("GPU-sim-1")
        _await_allocatable(cluster, GPUS - 1)
    finally:
        cluster.set_unhealthy_gpus()
    _await_allocatable(cluster, GPUS)


def test_gpus_come_back_after_the_kubelet_was_killed(cluster: Cluster) -> None:
    cluster.kill_program("kubelet")
    cluster.start_program("kubelet")
    cluster.set_unhealthy_gpus("GPU-sim-0")
    try:
        # Only a plugin that registered with the new kubelet gets this through to it.
        _await_allocatable(cluster, GPUS - 1)
    finally:
        cluster.set_unhealthy_gpus()
    _await_allocatable(cluster, GPUS)


def test_use_of_cpu_is_measured_for_autoscaling(cluster: Cluster) -> None:
    def missing() -> str:
        try:
            metrics = cluster.kubectl(
                "get", "--raw", f"/apis/metrics.k8s.io/v1beta1/nodes/{cluster.layout.node}"
            )
        except KubectlError as error:
            return str(error)
        return "" if json.loads(metrics)["usage"]["cpu"] else metrics

    until("metrics of the node", missing, LOADED_SECONDS)


def test_each_request_is_in_the_audit_log(cluster: Cluster, namespace: str) -> None:
    lines = cluster.layout.audit_log.read_text().splitlines()
    verbs = {
        (entry["user"]["username"], entry["verb"])
        for entry in map(json.loads, lines)
        if entry.get("objectRef", {}).get("name") == namespace
    }
    assert ("admin", "create") in verbs


@pytest.mark.timeout(900)
def test_removing_it_leaves_nothing_and_it_starts_again(cluster: Cluster, namespace: str) -> None:
    cluster.apply(probe("server", namespace), service("server", namespace))
    cluster.wait("pod/server", namespace=namespace)
    # As after a crash: nothing ends in order.
    cluster.kill_program("containerd")
    cluster.kill_program("kubelet")
    try:
        cluster.remove()
        left = _traces()
        cluster.remove()
    finally:
        started = time.monotonic()
        cluster.start(GPUS)
    assert left == []
    assert time.monotonic() - started < LOADED_SECONDS


def _allocatable(cluster: Cluster) -> int:
    status = cluster.get(f"node/{cluster.layout.node}")["status"]
    return int(status["allocatable"]["nvidia.com/gpu"])


def _await_allocatable(cluster: Cluster, wanted: int) -> None:
    def missing() -> str:
        offered = _allocatable(cluster)
        return "" if offered == wanted else f"{offered} are allocatable"

    until(f"{wanted} allocatable GPUs", missing, LOADED_SECONDS)


def _traces() -> list[str]:
    """What a cluster would leave: processes, mounts, links, rules, control groups and files."""
    marks = ("slm-cluster", "slm-device-plugin", "kube-proxy")
    found = [
        f"process: {arguments}"
        for arguments in map(_arguments, Path("/proc").iterdir())
        if any(mark in arguments for mark in marks)
    ]
    found += [
        f"mount: {line}"
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if "slm-cluster" in line
    ]
    found += [
        f"link: {link['ifname']}"
        for link in json.loads(_output("ip", "-json", "link"))
        if link["ifname"].startswith(("slm0", "veth"))
    ]
    for save in ("iptables-save", "ip6tables-save"):
        lines = _output(save).splitlines()
        found += [line for line in lines if "KUBE" in line or "slm-cluster" in line]
    found += [str(each) for each in hierarchies() if (each / "slm-cluster").exists()]
    files = ("/var/lib/slm-cluster", "/run/slm-cluster", "/var/lib/kubelet", "/var/lib/cni")
    found += [file for file in files if Path(file).exists()]
    return found


def _arguments(process: Path) -> str:
    try:
        return (process / "cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _output(*command: str) -> str:
    environment = {"PATH": search_path()}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout
