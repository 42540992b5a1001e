"""The operator as a process of its own on a control plane, and what it asks of the API server."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil

from slm_dev.controlplane import Binaries, ControlPlane
from slm_operator.api.models import GROUP, PLURAL
from slm_operator.main import KEY_VARIABLE
from slm_worker.replicas.ports import free_port

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
    last_write_at: float | None
    """When the last write was answered, by time.time()."""


def requests_of(user: str, audit_lines: Iterable[str]) -> Requests:
    """Counts what ``user`` asked; a watch counts when it ends, which is after five minutes."""
    verbs: Counter[str] = Counter()
    last_write = None
    for line in audit_lines:
        event = json.loads(line)
        if event["user"]["username"] == user:
            target = event.get("objectRef", {})
            parts = (target.get("resource"), target.get("subresource"))
            verbs[f"{event['verb']} {'/'.join(part for part in parts if part)}"] += 1
            if event["verb"] not in READS:
                last_write = datetime.fromisoformat(event["stageTimestamp"]).timestamp()
    reads = sum(n for verb, n in verbs.items() if verb.split()[0] in READS)
    return Requests(reads, verbs.total() - reads, verbs, last_write)


class AuditLog:
    """The control plane's audit log."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def position(self) -> int:
        return self._path.stat().st_size

    def since(self, position: int) -> Requests:
        """What the operator asked since the log had reached ``position``."""
        with self._path.open("rb") as file:
            file.seek(max(0, position - 1))
            text = file.read().decode()
        # The lines at both ends may be parts of one.
        whole = text[: text.rfind("\n") + 1]
        return requests_of(
            OPERATOR_USER, (whole.partition("\n")[2] if position else whole).splitlines()
        )


def apply_manifests(binaries: Binaries, kubeconfig: Path) -> None:
    kubectl = [str(binaries.kubectl), f"--kubeconfig={kubeconfig}"]
    for manifest in MANIFESTS:
        subprocess.run([*kubectl, "apply", "--server-side", "-f", manifest], check=True)
    crd = f"crd/{PLURAL}.{GROUP}"
    subprocess.run([*kubectl, "wait", "--for=condition=Established", crd], check=True)


@dataclass(frozen=True)
class Operator:
    """Starts the operator on a control plane, each time with the same key."""

    control_plane: ControlPlane
    log: Path
    key: str = secrets.token_hex(32)

    @contextlib.contextmanager
    def running(self) -> Iterator[psutil.Process]:
        """When what is done with it fails, its log is shown."""
        environment = {
            **os.environ,
            "KUBECONFIG": str(self.control_plane.kubeconfig("operator")),
            KEY_VARIABLE: self.key,
        }
        port = free_port("127.0.0.1")
        command = [sys.executable, "-m", "slm_operator"]
        command += ["--health-address", "127.0.0.1", "--health-port", str(port)]
        with self.log.open("ab") as output:
            started = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
            try:
                yield psutil.Process(started.pid)
            except BaseException:
                print(self.log.read_text()[-4000:], file=sys.stderr)
                raise
            finally:
                started.terminate()
                started.wait(60)


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
