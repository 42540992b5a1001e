"""Pods of a real API server, run as processes of this host: their end, and that of the node."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from local_pods import (
    GPU,
    HIDES_CHILDREN,
    IMAGE,
    PROGRAMS,
    Cluster,
    container,
    marked_processes,
    pod,
    ready,
    running,
    until,
)
from slm_dev.controlplane import ControlPlane
from slm_dev.local_node import LocalNode


@pytest.mark.parametrize(
    ("policy", "code", "phase"),
    [("Never", 0, "Succeeded"), ("Never", 7, "Failed"), ("OnFailure", 0, "Succeeded")],
)
async def test_a_pod_that_is_done_stays_done(
    cluster: Cluster, node: LocalNode, policy: str, code: int, phase: str
) -> None:
    job = pod("job", f"exit {code}")
    job["spec"]["restartPolicy"] = policy
    await cluster.create(job)

    found = await cluster.until("job", lambda found: found["status"].get("phase") == phase)

    assert container(found)["state"]["terminated"]["exitCode"] == code
    assert container(found)["restartCount"] == 0
    await cluster.delete("job")
    await cluster.until_gone("job")


async def test_deletion_asks_the_main_process_alone_then_kills_everything(
    cluster: Cluster, node: LocalNode, tmp_path: Path
) -> None:
    events = tmp_path / "events"
    stubborn = pod(
        "stubborn",
        f"trap 'echo main >> {events}' TERM; "
        f"(trap 'echo child >> {events}' TERM; while :; do sleep 0.1; done) & "
        + HIDES_CHILDREN
        + "echo up; while :; do sleep 0.1; done",
        lifecycle={"preStop": {"exec": {"command": ["sh", "-c", f"echo hook >> {events}"]}}},
    )
    stubborn["spec"]["terminationGracePeriodSeconds"] = 8
    created = await cluster.create(stubborn)
    await cluster.until("stubborn", ready)
    await until("it is up", lambda: "up" in node.logs(cluster.namespace, "stubborn"))

    await cluster.delete("stubborn")
    found = await cluster.until("stubborn", lambda found: not ready(found))
    assert running(found)
    await cluster.until_gone("stubborn")

    assert events.read_text().split() == ["hook", "main"]
    assert not marked_processes(created["metadata"]["uid"])
    await until("its logs are gone", lambda: not has_logs(node, cluster.namespace, "stubborn"))


def has_logs(node: LocalNode, namespace: str, name: str) -> bool:
    try:
        node.logs(namespace, name)
    except FileNotFoundError:
        return False
    return True


async def test_a_killed_main_process_leaves_no_child_and_is_restarted(
    cluster: Cluster, node: LocalNode
) -> None:
    # Kubernetes takes $$ for one dollar sign; the shell gets two.
    created = await cluster.create(pod("parent", HIDES_CHILDREN + "echo $$$$; sleep 3002"))
    uid = created["metadata"]["uid"]
    await cluster.until("parent", running)
    await until("main is known", lambda: node.logs(cluster.namespace, "parent").strip().isdecimal())
    await until("all children run", lambda: len(marked_processes(uid)) >= 4)
    before = marked_processes(uid)

    os.kill(int(node.logs(cluster.namespace, "parent")), signal.SIGKILL)

    found = await cluster.until(
        "parent", lambda found: running(found) and container(found)["restartCount"] == 1
    )
    last = container(found)["lastState"]["terminated"]
    assert (last["exitCode"], last["signal"]) == (137, 9)
    assert not set(before) & set(marked_processes(uid))


async def test_a_pod_whose_object_vanishes_is_killed(cluster: Cluster, node: LocalNode) -> None:
    created = await cluster.create(pod("forced", "trap '' TERM; " + HIDES_CHILDREN + "sleep 3003"))
    await cluster.until("forced", running)

    await cluster.delete("forced", grace_seconds=0)

    await until(
        "its processes have ended", lambda: not marked_processes(created["metadata"]["uid"])
    )


async def test_pods_outlive_an_outage_of_the_api_server(
    cluster: Cluster, node: LocalNode, control_plane: ControlPlane, tmp_path: Path
) -> None:
    quit_once = tmp_path / "quit"
    script = f"echo begin; while ! rm {quit_once} 2>/dev/null; do sleep 0.1; done; exit 5"
    await cluster.create(pod("steady"))
    await cluster.create(pod("restarts", script))
    before = await cluster.until("steady", running)
    await cluster.until("restarts", running)

    await asyncio.to_thread(control_plane.stop_apiserver)
    try:
        quit_once.touch()
        await until(
            "a container is restarted meanwhile",
            lambda: node.logs(cluster.namespace, "restarts").count("begin") == 2,
        )
    finally:
        await asyncio.to_thread(control_plane.start_apiserver)

    found = await cluster.until(
        "restarts", lambda found: running(found) and container(found)["restartCount"] == 1
    )
    assert container(found)["lastState"]["terminated"]["exitCode"] == 5
    after = await cluster.get("steady")
    assert container(after)["containerID"] == container(before)["containerID"]
    assert container(after)["restartCount"] == 0
    await cluster.create(pod("next"))
    await cluster.until("next", running)


async def test_nothing_is_left_when_the_node_leaves(
    cluster: Cluster, new_node: Callable[[], LocalNode], tmp_path: Path
) -> None:
    async with new_node():
        created = await cluster.create(pod("last", HIDES_CHILDREN + "sleep 3004"))
        await cluster.until("last", running)

    assert not marked_processes(created["metadata"]["uid"])
    assert not (tmp_path / "node").exists()
    found = await cluster.get("last")
    assert (found["status"]["phase"], found["status"]["reason"]) == ("Failed", "NodeShutdown")
    conditions = (await cluster.api.get("/api/v1/nodes/local"))["status"]["conditions"]
    assert [each["status"] for each in conditions if each["type"] == "Ready"] == ["False"]


async def test_a_second_node_in_the_same_folder_is_refused(
    node: LocalNode, new_node: Callable[[], LocalNode]
) -> None:
    with pytest.raises(RuntimeError, match="another local node uses"):
        async with new_node():
            pass


async def test_killing_a_stand_alone_node_kills_its_pods_and_the_next_node_says_so(
    cluster: Cluster,
    control_plane: ControlPlane,
    new_node: Callable[[], LocalNode],
    tmp_path: Path,
) -> None:
    arguments: Mapping[str, object] = {
        "--kubeconfig": control_plane.kubeconfig("node"),
        "--scheduler-kubeconfig": control_plane.kubeconfig("admin"),
        "--image": f"{IMAGE}=PATH={PROGRAMS}",
        "--resource": f"{GPU}=1",
        "--root": tmp_path / "node",
    }
    command = [str(part) for pair in arguments.items() for part in pair]
    alone = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "slm_dev.local_node", *command, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert alone.stdout is not None
        assert await alone.stdout.readline() == b"ready\n"
        created = await cluster.create(pod("orphan", HIDES_CHILDREN + "sleep 3005"))
        uid = created["metadata"]["uid"]
        await cluster.until("orphan", running)
        assert marked_processes(uid)
    finally:
        alone.kill()
        await alone.wait()

    await until("its processes have ended", lambda: not marked_processes(uid))
    async with new_node():
        found = await cluster.until("orphan", lambda found: found["status"]["phase"] == "Failed")
        assert found["status"]["reason"] == "NodeLost"
        assert not list((tmp_path / "node" / "pods").iterdir())
        await cluster.create(pod("anew"))
        await cluster.until("anew", running)
