"""Every file of examples/: what a user reads where it cannot run, and that it serves where it can.

The cluster has GPUs to give and no driver for them. Left out are those that other tests apply.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from pods import GPUS
from product import (
    EXAMPLES,
    READY_SECONDS,
    Json,
    Product,
    await_completions,
    load,
    restrict,
    told,
)

from slm_dev.cluster import Cluster, until
from slm_dev.cluster.model_claim import provide_model

SIMULATED = "simulated-h100.yaml"
VLLM = "vllm-cpu.yaml"
"""Served with real vLLM by test_vllm.py."""
REAL = [file for file in sorted(EXAMPLES.glob("*.yaml")) if file.name != SIMULATED]
ON_GPUS = [file for file in REAL if file.name != VLLM]
PAIRS = [ON_GPUS[first : first + 2] for first in range(0, len(ON_GPUS), 2)]
"""More at once would only slow each other down: what serves begins its search."""
NO_GPU = [
    ("Unschedulable", "Insufficient nvidia.com/gpu"),
    ("DeviceUnavailable", "install the NVIDIA driver on the node"),
]
"""Who is quick gets a GPU, and finds that nothing answers there."""
LACKS = {
    "model-on-a-volume.yaml": [("Unschedulable", 'persistentvolumeclaim "models" not found')],
    VLLM: [("ModelNotFound", "/models/smollm2-135m-instruct does not exist")],
}
"""What else is missing: reason and words of Ready."""


@pytest.fixture(scope="module", autouse=True)
def home(cluster: Cluster) -> Iterator[str]:
    """The namespace of those that serve, with the claim and the node's label that one asks for.

    Made before the first test: Kubernetes may take half a minute to bind a claim.
    """
    name = f"examples-{uuid.uuid4().hex[:6]}"
    restrict(cluster, name)
    provide_model(cluster, name, print)
    key, node = "nvidia.com/gpu.product", f"node/{cluster.layout.node}"
    cluster.kubectl("label", node, f"{key}=NVIDIA-H100-80GB-HBM3")
    yield name
    cluster.kubectl("label", node, f"{key}-")
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def test_all_at_once_say_what_they_lack_and_the_simulated_one_serves(
    product: Product, cluster: Cluster, namespace: str
) -> None:
    restrict(cluster, namespace)
    cluster.kubectl("-n", namespace, "apply", "-f", str(EXAMPLES))

    def missing() -> str:
        silent = [file.stem for file in REAL if not explained(product, file, namespace)]
        return ", ".join(f"{name}: {told(product.status(name, namespace))}" for name in silent)

    until("that each says what it lacks", missing, READY_SECONDS)
    statuses = [product.status(file.stem, namespace) for file in ON_GPUS]
    gpus = [condition(status, "GPUAllocated") for status in statuses]
    assert {each["status"] for each in gpus} == {"False"}
    assert 0 < sum(each["reason"] == "DeviceUnavailable" for each in gpus) <= GPUS
    serve(product, EXAMPLES / SIMULATED, "chat", namespace)
    cluster.kubectl("-n", namespace, "delete", "-f", str(EXAMPLES))


@pytest.mark.parametrize("files", PAIRS, ids=lambda files: "+".join(each.stem for each in files))
def test_each_serves_on_a_simulated_gpu(product: Product, home: str, files: Sequence[Path]) -> None:
    for file in files:
        spec = yaml.safe_load(file.read_text())["spec"]
        product.apply_example(file.name, file.stem, home, **simulated(spec))
    for file in files:
        serve(product, file, file.stem, home)
        product.cluster.kubectl("-n", home, "delete", f"slm/{file.stem}")


def simulated(spec: Json) -> dict[str, Any]:
    """The fields of an example that tie it to a real GPU, without one."""
    changed = {
        "engine": {**spec.get("engine", {}), "kind": "Simulated"},
        "gpu": {**spec.get("gpu", {}), "kind": "Simulated"},
    }
    if spec["model"]["uri"].startswith("hf:"):
        # Nothing is downloaded here, and this is the one model whose size is known without.
        changed["model"] = {**spec["model"], "uri": "hf://facebook/opt-1.3b"}
    if "podTemplate" in spec:
        # More cores than this node has.
        template = {key: value for key, value in spec["podTemplate"].items() if key != "resources"}
        changed["podTemplate"] = template
    return changed


def serve(product: Product, file: Path, name: str, namespace: str) -> None:
    """Wait until a service of an example is Ready, and get a completion of it."""
    product.cluster.wait(f"slm/{name}", namespace=namespace)
    model = yaml.safe_load(file.read_text())["spec"]["model"].get("name", name)
    with load(product.url(name, namespace), model, concurrency=1) as counts:
        await_completions(counts, 1)


def explained(product: Product, file: Path, namespace: str) -> bool:
    """Whether a service says what it lacks."""
    ready = condition(product.status(file.stem, namespace), "Ready")
    expected: Sequence[tuple[str, str]] = LACKS.get(file.name, NO_GPU)
    return ready["status"] == "False" and any(
        ready["reason"] == reason and words in ready["message"] for reason, words in expected
    )


def condition(status: Json, kind: str) -> Json:
    found = [each for each in status.get("conditions", []) if each["type"] == kind]
    return found[0] if found else {"status": "Unknown", "reason": "", "message": ""}
