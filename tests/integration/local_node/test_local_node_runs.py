"""Pods of a real API server, run as processes of this host: their start and their health."""

import base64
import os
import stat
from pathlib import Path

import pytest

from local_pods import (
    IMAGE,
    Cluster,
    condition,
    container,
    pod,
    ready,
    running,
    until,
    waits_because,
    with_gpu,
)
from slm_dev.local_node import LocalNode

SERVE = """
import http.server, os, pathlib, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        wanted = self.headers.get("X-Probe") == "yes" and pathlib.Path(sys.argv[1]).exists()
        self.send_response(200 if wanted else 503)
        self.end_headers()
    def log_message(self, *args): pass
http.server.HTTPServer((os.environ["POD_IP"], 8080), Handler).serve_forever()
"""


async def test_a_pod_runs_with_the_environment_it_describes_and_no_other(
    cluster: Cluster, node: LocalNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_HOST", "hidden")
    token = base64.b64encode(b"s3cret").decode()
    await cluster.create({"metadata": {"name": "keys"}, "data": {"token": token}}, "secrets")
    await cluster.create({"metadata": {"name": "config"}, "data": {"A": "1"}}, "configmaps")
    created = pod(
        "all",
        "echo arg=$0; env; pwd; touch $TMPDIR/here; echo complete; exec sleep 3600",
        args=["$(MODEL)-$(POD_NAME)"],
        env=[
            {"name": "MODEL", "value": "opt"},
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "ROLE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['role']"}}},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}},
            {
                "name": "ABSENT",
                "valueFrom": {"configMapKeyRef": {"name": "no", "key": "no", "optional": True}},
            },
        ],
        envFrom=[{"prefix": "CONFIG_", "configMapRef": {"name": "config"}}],
    )
    created["metadata"]["labels"] = {"role": "pack"}
    await cluster.create(created)

    found = await cluster.until("all", ready)
    await until("the log is complete", lambda: "complete" in log_lines(node, cluster, "all"))
    lines = log_lines(node, cluster, "all")

    address = found["status"]["podIP"]
    assert found["status"]["phase"] == "Running"
    assert address.startswith("127.64.")
    assert {
        "arg=opt-all",
        "POD_NAME=all",
        f"POD_IP={address}",
        "ROLE=pack",
        "TOKEN=s3cret",
        "CONFIG_A=1",
        "FROM_IMAGE=image",
        "HOSTNAME=all",
    } <= lines
    names = {line.split("=")[0] for line in lines if "=" in line}
    assert not names & {"SECRET_OF_THE_HOST", "ABSENT"}
    home = next(line for line in lines if line.startswith("TMPDIR=")).removeprefix("TMPDIR=")
    assert {f"HOME={home}", home} <= lines
    assert stat.S_IMODE(os.stat(home).st_mode) == 0o700  # noqa: PTH116
    assert os.listdir(home) == ["here"]  # noqa: PTH208


def log_lines(node: LocalNode, cluster: Cluster, name: str) -> set[str]:
    return set(node.logs(cluster.namespace, name).splitlines())


async def test_pods_have_addresses_of_their_own(cluster: Cluster, node: LocalNode) -> None:
    await cluster.create(pod("one"))
    await cluster.create(pod("two"))

    one, two = await cluster.until("one", running), await cluster.until("two", running)

    assert one["status"]["podIP"] != two["status"]["podIP"]


async def test_a_missing_secret_is_waited_for(cluster: Cluster, node: LocalNode) -> None:
    reference = {"secretKeyRef": {"name": "late", "key": "token"}}
    await cluster.create(pod("waits", env=[{"name": "TOKEN", "valueFrom": reference}]))

    found = await cluster.until("waits", waits_because("CreateContainerConfigError"))
    assert found["status"]["phase"] == "Pending"
    message = 'secret "late" not found'
    await cluster.until(
        "waits", lambda found: container(found)["state"]["waiting"]["message"] == message
    )

    await cluster.create({"metadata": {"name": "late"}, "data": {"token": "eA=="}}, "secrets")
    await cluster.until("waits", running)


async def test_an_unknown_image_is_named_with_the_known_ones(
    cluster: Cluster, node: LocalNode
) -> None:
    await cluster.create(pod("lost", image="elsewhere:1", imagePullPolicy="Never"))

    found = await cluster.until("lost", waits_because("ErrImageNeverPull"))

    message = container(found)["state"]["waiting"]["message"]
    assert "elsewhere:1" in message
    assert IMAGE in message


async def test_what_the_node_cannot_give_is_refused_by_name(
    cluster: Cluster, node: LocalNode
) -> None:
    asking = pod("asking")
    asking["spec"]["volumes"] = [{"name": "keys", "configMap": {"name": "keys"}}]
    await cluster.create(asking)

    found = await cluster.until("asking", waits_because("CreateContainerConfigError"))

    assert "volumes[keys]" in container(found)["state"]["waiting"]["message"]


async def test_a_pod_waits_for_the_device_that_another_holds(
    cluster: Cluster, node: LocalNode
) -> None:
    await cluster.create(with_gpu("first"))
    await cluster.until("first", running)
    await cluster.create(with_gpu("second"))

    refused = await cluster.until(
        "second", lambda found: condition(found, "PodScheduled").get("reason") == "Unschedulable"
    )
    assert condition(refused, "PodScheduled")["message"] == (
        "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    )
    assert refused["status"]["phase"] == "Pending"

    await cluster.delete("first")
    placed = await cluster.until("second", running)
    assert condition(placed, "PodScheduled")["status"] == "True"


async def test_readiness_follows_an_http_probe_after_the_startup_probe(
    cluster: Cluster, node: LocalNode, tmp_path: Path
) -> None:
    switch, begun = tmp_path / "switch", tmp_path / "begun"
    get = {"path": "/health", "port": "web", "httpHeaders": [{"name": "X-Probe", "value": "yes"}]}
    quick = {"periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 1}
    await cluster.create(
        pod(
            "web",
            command=["python", "-c", SERVE, str(switch)],
            env=[{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            ports=[{"name": "web", "containerPort": 8080}],
            startupProbe={
                "exec": {"command": ["test", "-e", str(begun)]},
                **quick,
                "failureThreshold": 1000,
            },
            readinessProbe={"httpGet": get, **quick},
        )
    )
    found = await cluster.until("web", running)
    assert not container(found)["started"]

    begun.touch()
    found = await cluster.until("web", lambda found: bool(container(found)["started"]))
    assert condition(found, "Ready")["message"] == "containers with unready status: [main]"

    switch.touch()
    await cluster.until("web", ready)

    switch.unlink()
    found = await cluster.until("web", lambda found: not ready(found))
    assert container(found)["restartCount"] == 0


async def test_a_container_that_fails_its_liveness_probe_is_restarted(
    cluster: Cluster, node: LocalNode, tmp_path: Path
) -> None:
    sick = tmp_path / "sick"
    probe = {
        "exec": {"command": ["sh", "-c", f"! rm {sick}"]},
        "periodSeconds": 1,
        "timeoutSeconds": 10,
        "failureThreshold": 1,
    }
    await cluster.create(pod("ill", livenessProbe=probe))
    await cluster.until("ill", running)

    sick.touch()
    found = await cluster.until(
        "ill", lambda found: running(found) and container(found)["restartCount"] == 1
    )

    last = container(found)["lastState"]["terminated"]
    assert (last["reason"], last["exitCode"], last["signal"]) == ("Error", 143, 15)


async def test_a_container_that_keeps_failing_backs_off(cluster: Cluster, node: LocalNode) -> None:
    await cluster.create(pod("crash", "echo attempt; exit 3"))

    found = await cluster.until("crash", waits_because("CrashLoopBackOff"))

    assert found["status"]["phase"] == "Running"
    assert container(found)["lastState"]["terminated"]["exitCode"] == 3
    assert "back-off" in container(found)["state"]["waiting"]["message"]
    await cluster.until("crash", lambda found: container(found)["restartCount"] >= 3)
    assert node.logs(cluster.namespace, "crash").count("attempt") <= 2


async def test_a_program_that_does_not_exist_is_named(cluster: Cluster, node: LocalNode) -> None:
    missing = pod("typo", command=["vllmm"])
    missing["spec"]["restartPolicy"] = "Never"
    await cluster.create(missing)

    found = await cluster.until("typo", lambda found: found["status"].get("phase") == "Failed")

    state = container(found)["state"]["terminated"]
    assert (state["reason"], state["exitCode"]) == ("StartError", 128)
    assert "vllmm: No such file or directory" in state["message"]
