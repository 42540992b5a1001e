"""The product in the tests' cluster: its release, its services, and the load of clients."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from slm_dev.clients import Clients, Counts
from slm_dev.cluster import Cluster, WaitError, until
from slm_dev.images import Images
from slm_dev.release import NAMESPACE, Release, values_of

Json = dict[str, Any]

EXAMPLES = Path(__file__).parents[2] / "examples"
READY_SECONDS = 180.0
"""Longest that something may take on a busy machine that takes seconds on a quiet one."""
SHORT_WINDOWS = {
    "operator.windows.minSeconds": "4",
    "operator.windows.maxSeconds": "8",
    "operator.windows.warmupSeconds": "1",
    "operator.demandSampleSeconds": "2",
}
"""Measurements that end soon: simulated figures hardly differ from one moment to the next."""


@dataclass
class Product:
    """What `helm install` brought, and those who use it."""

    cluster: Cluster
    release: Release
    images: Images
    installed_at: float
    """When `helm install` began, on the monotonic clock."""

    @property
    def values(self) -> dict[str, str]:
        """Of the chart."""
        return {
            **values_of(self.images.operator.name, self.images.worker.name),
            **SHORT_WINDOWS,
        }

    def apply_example(self, file: str, name: str, namespace: str, **spec: Any) -> None:
        """Apply an example as a user does, under another name and with fields of its own.

        A field that is None is left out.
        """
        example: Json = yaml.safe_load((EXAMPLES / file).read_text())
        example["metadata"] = {"name": name}
        fields = {**example["spec"], **spec}
        example["spec"] = {key: value for key, value in fields.items() if value is not None}
        self.cluster.kubectl("-n", namespace, "apply", "-f", "-", text=yaml.safe_dump(example))

    def status(self, name: str, namespace: str) -> Json:
        """Of a service."""
        found: Json = self.cluster.get(f"slm/{name}", namespace).get("status", {})
        return found

    def packs(self, name: str, namespace: str) -> list[Json]:
        """The Pods of a service that are not about to end."""
        listed = self.cluster.kubectl(
            *("-n", namespace, "get", "pods", "-o", "json"),
            *("-l", f"app.kubernetes.io/instance={name},app.kubernetes.io/name=slmservice"),
        )
        pods: list[Json] = json.loads(listed)["items"]
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def url(self, name: str, namespace: str) -> str:
        """Of a service that is Ready, once the node sends there: kube-proxy learns of a pack
        moments after its readiness."""
        address = self.cluster.service_address(name, namespace)
        host, port = address.split(":")

        def missing() -> str:
            try:
                socket.create_connection((host, int(port)), timeout=5).close()
            except OSError as error:
                return str(error)
            return ""

        until(f"a connection to {address}", missing, READY_SECONDS)
        return f"http://{address}"

    def leader(self) -> str:
        """The name of the operator's Pod that acts."""
        return self.lease_holder().rpartition("_")[0]

    def lease_holder(self) -> str:
        """Who acts: a Pod's name, and what tells its process from one before."""
        lease = self.cluster.get("lease/slm-operator", NAMESPACE)
        holder: str = lease["spec"]["holderIdentity"]
        return holder

    def ask_from_a_pod(self, name: str, namespace: str, timeout_seconds: int = 180) -> str:
        """Let a client's Pod ask a service for one completion; return what it prints."""
        url = f"http://{name}.{namespace}.svc"
        arguments = [f"--url={url}", f"--model={name}", f"--timeout-seconds={timeout_seconds}"]
        return self.run_in_a_pod(namespace, "-m", "slm_operator.ask", *arguments)

    def run_in_a_pod(self, namespace: str, *arguments: str) -> str:
        """Run Python in a Pod of its own and return what it prints. Raises WaitError."""
        pod = f"client-{uuid.uuid4().hex[:6]}"
        image = self.images.operator.name
        self.cluster.apply(restricted_pod(pod, namespace, image, ["python", *arguments]))

        def phase() -> str:
            found: str = self.cluster.get(f"pod/{pod}", namespace)["status"]["phase"]
            return found

        def missing() -> str:
            return "" if phase() in ("Succeeded", "Failed") else f"it is {phase()}"

        until(f"the end of {pod}", missing, 2 * READY_SECONDS)
        said = self.cluster.kubectl("-n", namespace, "logs", pod)
        ended = phase()
        self.cluster.kubectl("-n", namespace, "delete", "pod", pod)
        if ended != "Succeeded":
            raise WaitError(said)
        return said


def restrict(cluster: Cluster, namespace: str) -> None:
    """Make a namespace, if it is not there, that admits Pods of the restricted standard alone."""
    labels = {f"pod-security.kubernetes.io/{each}": "restricted" for each in ("enforce", "warn")}
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": namespace, "labels": labels},
        }
    )


def restricted_pod(name: str, namespace: str, image: str, command: list[str]) -> Json:
    """A Pod that runs once and needs no right."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "client",
                    "image": image,
                    "imagePullPolicy": "Never",
                    "command": command,
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }


def told(status: Json) -> str:
    """What a service's conditions that do not hold say."""
    conditions = status.get("conditions", [])
    return "; ".join(
        f"{each['type']} {each['reason']}: {each['message']}"
        for each in conditions
        if each["status"] != "True"
    )


@contextmanager
def load(url: str, model: str, concurrency: int = 4) -> Iterator[Counts]:
    """Clients of this host that ask one request after another, until the block ends.

    After it each request has ended: sent = completed + failed.
    """
    leaving = threading.Event()
    clients = Clients(url, model, concurrency)
    errors: list[BaseException] = []

    async def ask() -> None:
        async with clients:
            await asyncio.to_thread(leaving.wait)

    def run() -> None:
        try:
            asyncio.run(ask())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield clients.counts
    finally:
        leaving.set()
        thread.join()
    if errors:
        raise errors[0]


def await_completions(counts: Counts, further: int, seconds: float = READY_SECONDS) -> None:
    """Wait until so many further requests were completed. Raises WaitError."""
    before = counts.completed

    def missing() -> str:
        done = counts.completed - before
        return "" if done >= further else f"{done} were; last failure: {counts.last_failure}"

    until(f"{further} completions", missing, seconds)
