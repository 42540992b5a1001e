"""How long it takes from `helm install` to a first completion, in a real cluster on this host.

The node, its containers, the chart and the images are real, and the images are on the node already.
First with engine and GPU simulated, so that no model is loaded; then with real vLLM on the node's
CPU and a small model on a claim. Needs root, and a host without a cluster. Run with
``python -m benchmarks.first_completion``.
"""

from __future__ import annotations

import json
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from benchmarks.report import write
from slm_dev import helm, images
from slm_dev.cluster import Cluster, KubectlError, find_or_build, host_lock, until
from slm_dev.cluster.model_claim import MODEL_URI, provide_model
from slm_dev.release import NAME, NAMESPACE, Release, values_of

ROUNDS = 3
LIMIT_SECONDS = 600.0
EXAMPLES = Path(__file__).parents[1] / "examples"
BODY = {"max_tokens": 8, "messages": [{"role": "user", "content": "Hello"}]}


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
    with_vllm = images.worker_with_vllm(print)
    program = helm.find_or_build(print)
    with host_lock(print):
        cluster = Cluster(find_or_build(print))
        if cluster.running():
            raise SystemExit("A cluster runs on this host: `make cluster-down` removes it.")
        try:
            every = (built.operator, built.worker, with_vllm)
            cluster.start(images=[image.archive for image in every])
            provide_model(cluster, "default", print)
            values = values_of(built.operator.name, built.worker.name)
            release = Release(program, cluster.kubeconfig)
            rounds = {
                name: [measure(cluster, release, values, service) for _ in range(ROUNDS)]
                for name, service in {
                    "simulated": example("simulated-h100"),
                    "vllm": vllm_on_the_cpu(with_vllm.name),
                }.items()
            }
        finally:
            cluster.remove()
    write(
        "first_completion",
        {"rounds": ROUNDS}
        | {
            f"{name}_{figure}": value
            for name, measured in rounds.items()
            for figure, value in figures(measured).items()
        },
        "python -m benchmarks.first_completion",
        raw={name: [vars(each) for each in measured] for name, measured in rounds.items()},
    )


def figures(rounds: list[Round]) -> dict[str, float]:
    answered = [each.answered for each in rounds]
    return {
        "helm_install_seconds": median(each.installed for each in rounds),
        "first_status_seconds": median(each.accepted for each in rounds),
        "first_completion_seconds": median(answered),
        "first_completion_least_seconds": min(answered),
        "first_completion_most_seconds": max(answered),
    }


def example(name: str) -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
    return manifest


def vllm_on_the_cpu(worker_image: str) -> dict[str, Any]:
    """The example, with an image that has vLLM and a model that the cluster has."""
    manifest = example("vllm-cpu")
    manifest["spec"]["model"]["uri"] = MODEL_URI
    manifest["spec"]["engine"]["image"] = worker_image
    return manifest


def measure(
    cluster: Cluster, release: Release, values: dict[str, str], manifest: dict[str, Any]
) -> Round:
    """Install, apply the service at once, wait for a completion, and remove all of it again."""
    name = manifest["metadata"]["name"]
    started = time.monotonic()
    release.install(values)
    installed = time.monotonic() - started
    cluster.apply(manifest)
    until("the service's first status", lambda: without_status(cluster, name), LIMIT_SECONDS)
    accepted = time.monotonic() - started
    url = f"http://{cluster.service_address(name)}"
    until("a completion", lambda: without_completion(url, name), LIMIT_SECONDS)
    answered = time.monotonic() - started
    remove(cluster, release)
    return Round(installed, accepted, answered)


def without_status(cluster: Cluster, name: str) -> str:
    """What is missing, or the empty text."""
    try:
        cluster.get(f"service/{name}")
        return "" if "status" in cluster.get(f"slm/{name}") else "it has no status"
    except KubectlError as error:
        return str(error)


def without_completion(url: str, model: str) -> str:
    """What is missing, or the empty text."""
    request = urllib.request.Request(  # noqa: S310 - of the cluster's Service
        f"{url}/v1/chat/completions",
        data=json.dumps({"model": model, **BODY}).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
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
