"""The product in the tests' cluster: its release, its services, and the load of clients."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from slm_dev.clients import Clients, Counts
from slm_dev.cluster import Cluster, KubectlError, WaitError, until
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
        """Apply an example as a user does, under another name and with fields of its own."""
        example: Json = yaml.safe_load((EXAMPLES / file).read_text())
        example["metadata"] = {"name": name}
        example["spec"] = {**example["spec"], **spec}
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

    def operator_pods(self) -> list[str]:
        """Names of the operator's Pods."""
        selector = "app.kubernetes.io/component=operator"
        listed = self.cluster.kubectl("-n", NAMESPACE, "get", "pods", "-l", selector, "-o", "json")
        return [pod["metadata"]["name"] for pod in json.loads(listed)["items"]]

    def leader(self) -> str:
        """The name of the operator's Pod that acts."""
        lease = self.cluster.get("lease/slm-operator", NAMESPACE)
        holder: str = lease["spec"]["holderIdentity"]
        return holder.rpartition("_")[0]

    def await_status(
        self, what: str, name: str, namespace: str, seconds: float = READY_SECONDS, **wanted: Any
    ) -> None:
        """Wait until the fields of a service's status are as wanted. Raises WaitError."""

        def missing() -> str:
            try:
                status = self.status(name, namespace)
            except KubectlError as error:
                return str(error)
            differing = {key: status.get(key) for key in wanted if status.get(key) != wanted[key]}
            return "" if not differing else f"{differing}; {told(status)}"

        until(what, missing, seconds)

    def ask_from_a_pod(self, name: str, namespace: str, timeout_seconds: int = 180) -> str:
        """Let a client's Pod ask a service for one completion; return what it prints."""
        client = f"client-{name}"
        url = f"http://{name}.{namespace}.svc"
        self.cluster.apply(self.client(client, namespace, url, name, timeout_seconds))

        def missing() -> str:
            phase: str = self.cluster.get(f"pod/{client}", namespace)["status"]["phase"]
            return "" if phase in ("Succeeded", "Failed") else f"it is {phase}"

        until(f"the end of {client}", missing, timeout_seconds + READY_SECONDS)
        said = self.cluster.kubectl("-n", namespace, "logs", client)
        ended = self.cluster.get(f"pod/{client}", namespace)["status"]["phase"]
        self.cluster.kubectl("-n", namespace, "delete", "pod", client)
        if ended != "Succeeded":
            raise WaitError(said)
        return said

    def client(self, pod: str, namespace: str, url: str, model: str, seconds: int) -> Json:
        """A client's Pod, which asks for one completion and ends."""
        arguments = [f"--url={url}", f"--model={model}", f"--timeout-seconds={seconds}"]
        return restricted_pod(
            pod,
            namespace,
            self.images.operator.name,
            ["python", "-m", "slm_operator.ask", *arguments],
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
