"""A real etcd and API server: started, taken down, and gone without a trace."""

import asyncio
import dataclasses
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slm_dev.controlplane import (
    Binaries,
    ControlPlane,
    ControlPlaneStartError,
    UserName,
    find_or_build,
    server,
)

START_AND_WAIT = """
import time
from slm_dev.controlplane import ControlPlane, find_or_build
control_plane = ControlPlane(find_or_build(lambda line: None))
control_plane.start()
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def binaries() -> Binaries:
    return find_or_build(print)


@pytest.fixture(scope="module")
def audit_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit") / "audit.log"


@pytest.fixture(scope="module")
def running(binaries: Binaries, audit_log: Path) -> Iterator[ControlPlane]:
    with ControlPlane(binaries, audit_log) as control_plane:
        yield control_plane


class Kubectl:
    """Runs kubectl as one of the users."""

    def __init__(self, binaries: Binaries, control_plane: ControlPlane) -> None:
        self._program = binaries.kubectl
        self._control_plane = control_plane

    def __call__(self, user: UserName, *arguments: str) -> subprocess.CompletedProcess[str]:
        kubeconfig = self._control_plane.kubeconfig(user)
        command = [str(self._program), "--kubeconfig", str(kubeconfig), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def kubectl(binaries: Binaries, running: ControlPlane) -> Kubectl:
    return Kubectl(binaries, running)


def processes_in(folder: Path) -> list[str]:
    """Return the command lines of processes that work in `folder`, even when it is removed."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The link's text ends in " (deleted)" once the folder is gone.
                if os.readlink(entry / "cwd").startswith(str(folder)):  # noqa: PTH115
                    found.append((entry / "cmdline").read_text())
            except OSError:
                continue
    return found


def wait_until(condition: Callable[[], bool], timeout_seconds: float = 90) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_admin_creates_what_the_node_of_the_cluster_may_not(kubectl: Kubectl) -> None:
    pod = kubectl("admin", "run", "alone", "--image=none")
    assert pod.returncode == 0, pod.stderr
    assert "only list/watch pods with spec.nodeName" in kubectl("node", "get", "pods").stderr
    whoami = json.loads(kubectl("node", "auth", "whoami", "-o", "json").stdout)
    assert whoami["status"]["userInfo"]["username"] == "system:node:local"
    assert "system:nodes" in whoami["status"]["userInfo"]["groups"]


def test_operator_has_the_rights_it_is_given_and_no_others(kubectl: Kubectl) -> None:
    refused = kubectl("operator", "get", "services")
    assert refused.returncode != 0
    assert 'User "slm-operator" cannot list resource "services"' in refused.stderr
    kubectl("admin", "create", "clusterrole", "reader", "--verb=list", "--resource=services")
    kubectl(
        *("admin", "create", "clusterrolebinding", "reader"),
        *("--clusterrole=reader", "--user=slm-operator"),
    )
    # The API server learns of new rights by a watch of its own.
    wait_until(lambda: kubectl("operator", "get", "services").returncode == 0)


def test_credentials_are_private(running: ControlPlane) -> None:
    folder = running.kubeconfig("admin").parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    users: tuple[UserName, ...] = ("admin", "operator", "node")
    secrets = [running.kubeconfig(user) for user in users]
    for path in [*secrets, folder / "tokens.csv", folder / "service-account.key"]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_service_account_tokens_are_signed_and_accepted(
    kubectl: Kubectl, running: ControlPlane, binaries: Binaries
) -> None:
    kubectl("admin", "create", "serviceaccount", "bearer")
    token = kubectl("admin", "create", "token", "bearer").stdout.strip()
    # A kubeconfig's own token outranks --token, so only the authority is taken from it.
    config = json.loads(running.kubeconfig("admin").read_text())
    config["users"][0]["user"] = {"token": token}
    bearer = running.kubeconfig("admin").with_name("bearer.kubeconfig")
    bearer.write_text(json.dumps(config))
    command = [str(binaries.kubectl), "--kubeconfig", str(bearer), "auth", "whoami"]
    whoami = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "system:serviceaccount:default:bearer" in whoami.stdout


def test_apiserver_restart_keeps_address_and_data(kubectl: Kubectl, running: ControlPlane) -> None:
    kubectl("admin", "create", "configmap", "kept", "--from-literal=a=b")
    url = running.url
    running.stop_apiserver()
    assert "refused" in kubectl("admin", "get", "configmap", "kept").stderr
    running.start_apiserver()
    assert running.url == url
    assert kubectl("admin", "get", "configmap", "kept").returncode == 0


def test_restart_says_when_the_port_was_taken(kubectl: Kubectl, running: ControlPlane) -> None:
    running.stop_apiserver()
    port = int(running.url.rsplit(":", 1)[1])
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(ControlPlaneStartError, match=f"took port {port}"),
    ):
        running.start_apiserver()
    running.start_apiserver()
    assert kubectl("admin", "get", "namespaces").returncode == 0


def test_audit_log_has_one_line_for_each_write(
    kubectl: Kubectl, running: ControlPlane, audit_log: Path
) -> None:
    kubectl("admin", "create", "configmap", "counted")
    kubectl("operator", "create", "configmap", "refused")
    events = [json.loads(line) for line in audit_log.read_text().splitlines()]
    writes = [
        (event["user"]["username"], event["responseStatus"]["code"])
        for event in events
        if event["verb"] == "create"
        and event["requestURI"].startswith("/api/v1/namespaces/default/configmaps")
        and event["objectRef"].get("name") in ("counted", None)
    ]
    assert writes.count(("slm-operator", 403)) == 1
    assert ("admin", 201) in writes


async def test_nothing_is_left_after_stop(
    binaries: Binaries, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose = server._free_port
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1]])
        monkeypatch.setattr(server, "_free_port", lambda: next(ports, None) or choose())
        control_plane = ControlPlane(binaries)
        await asyncio.to_thread(control_plane.start)
        assert not control_plane.url.endswith(f":{taken.getsockname()[1]}")
    folder = control_plane.kubeconfig("admin").parent
    assert len(processes_in(folder)) == 4
    await asyncio.to_thread(control_plane.stop)
    assert processes_in(folder) == []
    assert not folder.exists()
    await asyncio.to_thread(control_plane.stop)
    with pytest.raises(RuntimeError, match=r"call start\(\) first"):
        control_plane.kubeconfig("admin")


def test_it_outlives_the_thread_that_started_it(binaries: Binaries) -> None:
    control_plane = ControlPlane(binaries)
    starter = threading.Thread(target=control_plane.start)
    starter.start()
    starter.join()
    try:
        time.sleep(1)
        kubectl = Kubectl(binaries, control_plane)
        assert kubectl("admin", "get", "namespaces").returncode == 0
    finally:
        control_plane.stop()


@pytest.fixture
def starter(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has started a control plane under `tmp_path`."""
    command = [sys.executable, "-c", START_AND_WAIT]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_nothing_is_left_when_the_starter_is_killed(
    starter: subprocess.Popen[str], tmp_path: Path
) -> None:
    (folder,) = tmp_path.iterdir()
    assert len(processes_in(folder)) == 4
    starter.kill()
    wait_until(lambda: not processes_in(folder) and not folder.exists())


def test_programs_end_when_their_guards_are_killed(
    starter: subprocess.Popen[str], tmp_path: Path
) -> None:
    (folder,) = tmp_path.iterdir()
    tasks = Path(f"/proc/{starter.pid}/task").iterdir()
    for guard in [pid for task in tasks for pid in (task / "children").read_text().split()]:
        os.kill(int(guard), signal.SIGKILL)
    # A killed guard stays a zombie, which has no working folder, until the starter reaps it.
    wait_until(lambda: not processes_in(folder))
    shutil.rmtree(folder)


def test_failed_start_shows_the_log_and_leaves_nothing(
    binaries: Binaries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    broken = tmp_path / "etcd"
    broken.write_text("#!/bin/sh\necho the disk is full\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(ControlPlaneStartError, match=r"(?s)etcd ended.*the disk is full"):
        ControlPlane(dataclasses.replace(binaries, etcd=broken)).start()
    assert list(tmp_path.iterdir()) == [broken]


def test_start_that_takes_too_long_shows_the_log(
    binaries: Binaries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(server, "START_TIMEOUT_SECONDS", 5.0)
    stuck = tmp_path / "kube-apiserver"
    stuck.write_text("#!/bin/sh\necho waiting for nothing\nexec /bin/sleep 600\n")
    stuck.chmod(0o755)
    with pytest.raises(ControlPlaneStartError, match=r"(?s)not ready after 5 s.*for nothing"):
        ControlPlane(dataclasses.replace(binaries, kube_apiserver=stuck)).start()
    assert list(tmp_path.iterdir()) == [stuck]
