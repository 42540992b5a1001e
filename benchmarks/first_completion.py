"""How long it takes from `helm install` to a first completion, in a real cluster on this host.

The node, its containers, the chart and the images are real, and the images are on the node already;
engine and GPU are simulated, so no model is loaded. Needs root, and a host without a cluster. Run
with ``python -m benchmarks.first_completion``.
"""

from __future__ import annotations

import json
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.report import write
from slm_dev import helm, images
from slm_dev.cluster import Cluster, KubectlError, find_or_build, host_lock, until
from slm_dev.release import NAME, NAMESPACE, Release, values_of

ROUNDS = 3
LIMIT_SECONDS = 300.0
EXAMPLE = Path(__file__).parents[1] / "examples" / "simulated-h100.yaml"
SERVICE = "chat"
"""Of the example."""


@dataclass(frozen=True)
class Round:
    """Seconds since `helm install` began."""

    installed: float
    """helm has ended."""
    accepted: float
    """The operator has written the service's first status."""
    answered: float
    """A client of the host has a whole completion through the Service."""


def main() -> None:
    built = images.find_or_build(print)
    program = helm.find_or_build(print)
    with host_lock(print):
        cluster = Cluster(find_or_build(print))
        if cluster.running():
            raise SystemExit("A cluster runs on this host: `make cluster-down` removes it.")
        try:
            cluster.start(images=[built.operator.archive, built.worker.archive])
            values = values_of(built.operator.name, built.worker.name)
            release = Release(program, cluster.kubeconfig)
            rounds = [measure(cluster, release, values) for _ in range(ROUNDS)]
        finally:
            cluster.remove()
    answered = [each.answered for each in rounds]
    write(
        "first_completion",
        {
            "rounds": ROUNDS,
            "helm_install_seconds": median(each.installed for each in rounds),
            "first_status_seconds": median(each.accepted for each in rounds),
            "first_completion_seconds": median(answered),
            "first_completion_least_seconds": min(answered),
            "first_completion_most_seconds": max(answered),
            "simulated": True,
        },
        "python -m benchmarks.first_completion",
        raw={"rounds": [vars(each) for each in rounds]},
    )


def measure(cluster: Cluster, release: Release, values: dict[str, str]) -> Round:
    """Install, apply the example at once, wait for a completion, and remove all of it again."""
    started = time.monotonic()
    release.install(values)
    installed = time.monotonic() - started
    cluster.kubectl("apply", "-f", str(EXAMPLE))
    until("the service's first status", lambda: without_status(cluster), LIMIT_SECONDS)
    accepted = time.monotonic() - started
    url = f"http://{cluster.service_address(SERVICE)}"
    until("a completion", lambda: without_completion(url), LIMIT_SECONDS)
    answered = time.monotonic() - started
    remove(cluster, release)
    return Round(installed, accepted, answered)


def without_status(cluster: Cluster) -> str:
    """What is missing, or the empty text."""
    try:
        cluster.get(f"service/{SERVICE}")
        return "" if "status" in cluster.get(f"slm/{SERVICE}") else "it has no status"
    except KubectlError as error:
        return str(error)


def without_completion(url: str) -> str:
    """What is missing, or the empty text."""
    body = {"model": SERVICE, "max_tokens": 8, "messages": [{"role": "user", "content": "Hello"}]}
    request = urllib.request.Request(  # noqa: S310 - of the cluster's Service
        f"{url}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            text: str = json.load(answer)["choices"][0]["message"]["content"]
            return "" if text else "an empty completion"
    except (OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"


def remove(cluster: Cluster, release: Release) -> None:
    """Uninstall, so that the next round begins with nothing."""
    cluster.kubectl("delete", "slm", "--all")

    def left() -> str:
        managed = "app.kubernetes.io/managed-by=slm-operator"
        return cluster.kubectl("get", "pods,services", "-A", "-l", managed, "-o", "name")

    until("the end of the service's objects", left, LIMIT_SECONDS)
    release.call("uninstall", NAME, "--wait")
    cluster.kubectl("delete", "namespace", NAMESPACE)
    cluster.kubectl("delete", "crd", "slmservices.serving.slm.dev")
    cluster.kubectl("delete", "configmap", "slm-profiles", "--ignore-not-found")


if __name__ == "__main__":
    main()
