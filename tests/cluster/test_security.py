"""What another tenant's Pod and a pack's own container can do on a real node, and where secrets are
not to be seen. Both namespaces admit Pods of the restricted standard alone."""

from __future__ import annotations

import base64
import json
import secrets
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from pods import GPUS, probe
from product import READY_SECONDS, Json, Product, await_completions, load, restrict

from slm_dev.cluster import Cluster, KubectlError, until
from slm_dev.release import NAMESPACE
from slm_worker.wire import AGENT_PORT, ROUTER_PORT

CHAT = "private"
PACK = f"{CHAT}-pack-0"
KEY_SECRET = "slm-operator-key"
ASK_AGENT = """
import json, sys, urllib.error, urllib.request
def status(path, token=None, method="GET"):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(sys.argv[1] + path, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
print(json.dumps({
    "open": status("/healthz"),
    "state": status("/v1/pack"),
    "state, wrong token": status("/v1/pack", "wrong"),
    "plan": status("/v1/pack/plan", method="PUT"),
    "plan, wrong token": status("/v1/pack/plan", "wrong", "PUT"),
}))
"""
LOOK_AROUND = """
import json, os, pathlib
def writable(folder):
    try:
        path = pathlib.Path(folder, "try")
        path.write_text("")
        path.unlink()
        return True
    except OSError:
        return False
status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines())
print(json.dumps({
    "user": os.getuid(),
    "group": os.getgid(),
    "capabilities": {key: int(status[key], 16) for key in ("CapEff", "CapPrm", "CapBnd")},
    "no new privileges": status["NoNewPrivs"].strip(),
    "seccomp": status["Seccomp"].strip(),
    "writable": [each for each in ("/", "/etc", "/opt/slm", "/run/slm", "/tmp") if writable(each)],
    "account": os.path.exists("/var/run/secrets/kubernetes.io"),
    "devices": sorted(os.listdir("/dev")),
}))
"""
LISTENERS = """
import json
rows = [line.split() for line in open("/proc/net/tcp").read().splitlines()[1:]]
local = [row[1].split(":") for row in rows if row[3] == "0A"]
# An address is written as it lies in memory: 0100007F is 127.0.0.1.
print(json.dumps(sorted({int(port, 16) for host, port in local if not host.endswith("7F")})))
"""


@pytest.fixture(scope="module")
def home(cluster: Cluster) -> Iterator[str]:
    """The namespace of the service that they share."""
    name = f"private-{uuid.uuid4().hex[:6]}"
    restrict(cluster, name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module", autouse=True)
def chat(product: Product, home: str) -> str:
    """The URL of that service."""
    product.apply_example("simulated-h100.yaml", CHAT, home, replicasPerPack=1, autoscaling=None)
    product.cluster.wait(f"slm/{CHAT}", namespace=home)
    return product.url(CHAT, home)


def test_the_agents_api_answers_another_pod_with_401(product: Product, home: str) -> None:
    answers = json.loads(product.run_in_a_pod(home, "-c", ASK_AGENT, agent_url(product, home)))
    assert answers.pop("open") == 200
    assert set(answers.values()) == {401}, answers


def test_a_pack_listens_on_the_ports_of_router_and_agent_alone(product: Product, home: str) -> None:
    """Neither the router's admin socket nor an engine is reached from outside the pack."""
    command = ("python", "-c", LISTENERS)
    assert json.loads(product.cluster.execute(PACK, *command, namespace=home)) == [
        ROUTER_PORT,
        AGENT_PORT,
    ]


def test_a_pod_that_wants_the_packs_gpu_too_waits_and_so_does_a_service(
    product: Product, cluster: Cluster, namespace: str
) -> None:
    product.apply_example("smallest.yaml", "owner", namespace)
    pack = "owner-pack-0"
    cluster.wait(f"pod/{pack}", "PodScheduled", namespace=namespace)
    # One GPU is left of two.
    cluster.apply(probe("thief", namespace, gpus=GPUS))

    def missing() -> str:
        conditions = cluster.get("pod/thief", namespace)["status"].get("conditions", [])
        words = [each.get("message", "") for each in conditions]
        return "" if any("Insufficient nvidia.com/gpu" in each for each in words) else str(words)

    until("the scheduler's refusal", missing, READY_SECONDS)
    cluster.apply(probe("neighbour", namespace, gpus=1))
    cluster.wait("pod/neighbour", namespace=namespace)
    product.apply_example("smallest.yaml", "late", namespace)

    def late() -> str:
        conditions = product.status("late", namespace).get("conditions", [])
        found = [each for each in conditions if each["type"] == "GPUAllocated"]
        waits = [each for each in found if each["status"] == "False"]
        return "" if any("nvidia.com/gpu" in each["message"] for each in waits) else str(found)

    until("that the service says which GPU it lacks", late, READY_SECONDS)
    assert "nodeName" in cluster.get(f"pod/{pack}", namespace)["spec"]


@pytest.mark.parametrize("where", ["pack", "operator"])
def test_a_container_has_no_more_than_it_needs(product: Product, home: str, where: str) -> None:
    pod, namespace = (PACK, home) if where == "pack" else (product.leader(), NAMESPACE)
    seen = json.loads(
        product.cluster.execute(pod, "python", "-c", LOOK_AROUND, namespace=namespace)
    )
    assert seen["user"] == 65532
    assert set(seen["capabilities"].values()) == {0}
    assert (seen["no new privileges"], seen["seccomp"]) == ("1", "2")
    assert seen["writable"] == ["/tmp"]  # noqa: S108 - inside the container
    assert seen["account"] == (where == "operator")


def test_the_namespaces_refuse_what_is_not_restricted(cluster: Cluster, home: str) -> None:
    """Without it, that the product's Pods run there would show nothing."""
    for namespace in (NAMESPACE, home):
        with pytest.raises(KubectlError, match="violates PodSecurity"):
            cluster.apply(probe("bad", namespace))


def test_no_token_is_where_others_can_read_it(product: Product, home: str) -> None:
    planted = [
        token(product, home),
        secret(product, NAMESPACE, KEY_SECRET, "operator-key"),
        secret(product, NAMESPACE, KEY_SECRET, "activator-token"),
    ]
    assert all(len(each) >= 32 for each in planted)
    cluster = product.cluster
    kinds = "pods,slm,events,configmaps,services,deployments,leases,endpointslices"
    told = {"objects": cluster.kubectl("get", kinds, "--all-namespaces", "-o", "json")}
    told["audit log"] = cluster.layout.audit_log.read_text()
    for namespace in (NAMESPACE, home):
        for name in cluster.kubectl("-n", namespace, "get", "pods", "-o", "name").split():
            told[name] = cluster.kubectl("-n", namespace, "logs", name, "--all-containers")
    told["arguments"] = "\n".join(map(arguments, Path("/proc").iterdir()))
    # As a check of the check: these are what they say.
    assert CHAT in told["objects"]
    assert f"{CHAT}-agent-token" in told["audit log"]
    assert "slm_worker" in told["arguments"]
    for place, text in told.items():
        assert not any(each in text for each in planted), place


def test_a_new_key_reaches_operator_and_pack_by_the_kubelet_without_a_restart(
    product: Product, home: str, chat: str
) -> None:
    former, url = token(product, home), agent_url(product, home)
    before = containers(product, home)
    assert agent_status(url, former) == 200
    with load(chat, CHAT) as counts:
        new_key = json.dumps({"stringData": {"operator-key": secrets.token_hex(32)}})
        change = ("patch", "secret", KEY_SECRET, "--type=merge", "--patch", new_key)
        product.cluster.kubectl("-n", NAMESPACE, *change)

        def missing() -> str:
            newer = token(product, home)
            if newer == former:
                return "the operator has not written another token"
            answers = (agent_status(url, newer), agent_status(url, former))
            return "" if answers == (200, 401) else f"newer and former get {answers}"

        until("the new token at the agent", missing, READY_SECONDS)
        await_completions(counts, 4)
    assert counts.failed == 0, counts
    assert containers(product, home) == before
    product.cluster.wait(f"slm/{CHAT}", namespace=home)


def agent_url(product: Product, namespace: str) -> str:
    address = product.cluster.get(f"pod/{PACK}", namespace)["status"]["podIP"]
    return f"http://{address}:{AGENT_PORT}"


def agent_status(url: str, bearer: str) -> int:
    request = urllib.request.Request(  # noqa: S310 - of a Pod
        f"{url}/v1/pack", headers={"Authorization": f"Bearer {bearer}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        return error.code


def token(product: Product, namespace: str) -> str:
    return secret(product, namespace, f"{CHAT}-agent-token", "token")


def secret(product: Product, namespace: str, name: str, key: str) -> str:
    data: Json = product.cluster.get(f"secret/{name}", namespace)["data"]
    return base64.b64decode(data[key]).decode()


def containers(product: Product, namespace: str) -> list[str]:
    """Of operator and pack: a restart would give one another identity."""
    return [
        status["containerID"]
        for where in (NAMESPACE, namespace)
        for pod in product.cluster.get("pods", where)["items"]
        for status in pod["status"]["containerStatuses"]
    ]


def arguments(process: Path) -> str:
    try:
        return (process / "cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""
