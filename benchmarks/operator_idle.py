"""What the operator costs while nothing changes: 50 services on a real API server.

The operator runs as its own process with the rights of its RBAC manifest. Its packs are stand-ins
(`benchmarks.standin_packs`). Once every service is ready and the operator has stopped writing, its
CPU time, memory, API requests (from the API server's audit log) and polls of the agents are taken
over one minute. Where nothing changes it should write nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from kubernetes import client, config

from benchmarks import report
from benchmarks.standin_packs import StandInPacks
from slm_dev.controlplane import Binaries, ControlPlane, find_or_build
from slm_operator.api.models import GROUP, KIND, PLURAL, VERSION
from slm_operator.main import KEY_VARIABLE
from slm_worker.replicas.replica import free_port

NAME = "operator_idle"
SERVICES = 50
WINDOW_SECONDS = 60.0
QUIET_SECONDS = 30.0
"""Without a write for this long, two polls of every pack, the operator counts as idle."""
SETTLE_TIMEOUT_SECONDS = 300.0
READS = {"get", "list", "watch"}
ROOT = Path(__file__).parents[1]
MANIFESTS = (
    ROOT / "crds" / f"{PLURAL}.{GROUP}.yaml",
    ROOT / "charts" / "slm-operator" / "files" / "operator-rbac.yaml",
)
OPERATOR_USER = "slm-operator"


@dataclass(frozen=True)
class Requests:
    """API requests of one user."""

    reads: int
    writes: int
    verbs: Counter[str]


def requests_of(user: str, audit_lines: Iterator[str]) -> Requests:
    """Counts what ``user`` asked; a watch counts when it ends, which is after five minutes."""
    verbs: Counter[str] = Counter()
    for line in audit_lines:
        event = json.loads(line)
        if event["user"]["username"] == user:
            target = event.get("objectRef", {})
            parts = (target.get("resource"), target.get("subresource"))
            verbs[f"{event['verb']} {'/'.join(part for part in parts if part)}"] += 1
    reads = sum(n for verb, n in verbs.items() if verb.split()[0] in READS)
    return Requests(reads, verbs.total() - reads, verbs)


class AuditLog:
    """The control plane's audit log from a position on."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def position(self) -> int:
        return self._path.stat().st_size

    def requests(self, start: int, end: int) -> Requests:
        with self._path.open("rb") as file:
            file.seek(start)
            lines = file.read(end - start).decode().splitlines()
        return requests_of(OPERATOR_USER, iter(lines))


async def measure(folder: Path) -> dict[str, report.Figure]:
    binaries = await asyncio.to_thread(find_or_build, print)
    audit = AuditLog(folder / "audit.log")
    with ControlPlane(binaries, audit_log=folder / "audit.log") as control_plane:
        admin = control_plane.kubeconfig("admin")
        apply_manifests(binaries, admin)
        with config.new_client_from_config(str(admin)) as api:
            stand_ins = StandInPacks(client.CoreV1Api(api), SERVICES)
            async with stand_ins.playing():
                services = client.CustomObjectsApi(api)
                with operator(control_plane, folder / "operator.log") as process:
                    await asyncio.to_thread(create_services, services)
                    await until_idle(services, audit, process)
                    settling = audit.requests(0, audit.position())
                    return {
                        "services": SERVICES,
                        "api_writes_until_idle": settling.writes,
                        **await window(process, audit, stand_ins),
                    }


async def window(
    process: psutil.Process, audit: AuditLog, stand_ins: StandInPacks
) -> dict[str, report.Figure]:
    """The figures of one window over an operator that is idle."""
    start, polls, cpu = audit.position(), stand_ins.polls, cpu_seconds(process)
    began = time.monotonic()
    await asyncio.sleep(WINDOW_SECONDS)
    elapsed = time.monotonic() - began
    asked = audit.requests(start, audit.position())
    used = cpu_seconds(process) - cpu
    for verb, count in asked.verbs.most_common():
        print(f"  {count:5d}  {verb}")
    return {
        "window_seconds": elapsed,
        "cpu_seconds": used,
        "cpu_cores": used / elapsed,
        "resident_megabytes": process.memory_info().rss / 1e6,
        "api_writes_per_minute": asked.writes * 60 / elapsed,
        "api_reads_per_minute": asked.reads * 60 / elapsed,
        "agent_polls_per_second": (stand_ins.polls - polls) / elapsed,
    }


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def until_idle(
    services: client.CustomObjectsApi, audit: AuditLog, process: psutil.Process
) -> None:
    """Until all services are ready and nothing was written for a while. Raises TimeoutError."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_SECONDS
    ready = 0
    while True:
        start = audit.position()
        await asyncio.sleep(QUIET_SECONDS if ready == SERVICES else 2.0)
        ready = await asyncio.to_thread(count_ready, services)
        asked = audit.requests(start, audit.position())
        print(f"  {ready} of {SERVICES} services ready, {asked.writes} writes")
        if ready == SERVICES and asked.writes == 0:
            return
        if not process.is_running() or time.monotonic() > deadline:
            raise TimeoutError(f"{ready} of {SERVICES} ready, still writing {dict(asked.verbs)}")


def count_ready(services: client.CustomObjectsApi) -> int:
    listed: Any = services.list_cluster_custom_object(GROUP, VERSION, PLURAL)
    return sum(
        condition["status"] == "True"
        for item in listed["items"]
        for condition in item.get("status", {}).get("conditions", ())
        if condition["type"] == "Ready"
    )


def create_services(services: client.CustomObjectsApi) -> None:
    for number in range(SERVICES):
        services.create_namespaced_custom_object(
            GROUP,
            VERSION,
            "default",
            PLURAL,
            {
                "apiVersion": f"{GROUP}/{VERSION}",
                "kind": KIND,
                "metadata": {"name": f"idle-{number:02}"},
                "spec": {
                    "model": {"uri": "hf://facebook/opt-1.3b"},
                    "engine": {"kind": "Simulated"},
                    "gpu": {"kind": "Simulated"},
                    "replicasPerPack": 2,
                },
            },
        )


def apply_manifests(binaries: Binaries, kubeconfig: Path) -> None:
    kubectl = [str(binaries.kubectl), f"--kubeconfig={kubeconfig}"]
    for manifest in MANIFESTS:
        subprocess.run([*kubectl, "apply", "--server-side", "-f", manifest], check=True)
    crd = f"crd/{PLURAL}.{GROUP}"
    subprocess.run([*kubectl, "wait", "--for=condition=Established", crd], check=True)


@contextlib.contextmanager
def operator(control_plane: ControlPlane, log: Path) -> Iterator[psutil.Process]:
    """The operator as a process of its own; when the measurement fails its log is shown."""
    environment = {
        **os.environ,
        "KUBECONFIG": str(control_plane.kubeconfig("operator")),
        KEY_VARIABLE: secrets.token_hex(32),
    }
    port = free_port("127.0.0.1")
    command = [sys.executable, "-m", "slm_operator.main"]
    command += ["--health-address", "127.0.0.1", "--health-port", str(port)]
    with log.open("wb") as output:
        started = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            yield psutil.Process(started.pid)
        except BaseException:
            print(log.read_text()[-4000:], file=sys.stderr)
            raise
        finally:
            started.terminate()
            started.wait(60)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="slm-bench-") as folder:
        figures = asyncio.run(measure(Path(folder)))
    report.write(NAME, figures, f"python -m benchmarks.{NAME}")


if __name__ == "__main__":
    main()
