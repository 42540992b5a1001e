"""Real vLLM in a real container: a small model on a claim, and completions through the Service."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from http.client import HTTPConnection

import pytest
import yaml
from product import EXAMPLES, Product, restrict, told

from slm_dev.cluster import Cluster, KubectlError, until
from slm_dev.cluster.model_claim import MODEL_URI, provide_model
from slm_dev.images import worker_with_vllm

# Where no image is in the cache, it is built: minutes.
pytestmark = pytest.mark.timeout(1800)

NAME = "vllm-cpu"
REPLICAS = 2
START_SECONDS = 480.0
"""Each engine needs 20 s of a core that it has for itself, and they start one after another."""
QUESTIONS = {"The capital of France is": "Paris", "The capital of Italy is": "Rome"}


@pytest.fixture
def worker_image(cluster: Cluster) -> str:
    """The name of the worker's image with vLLM, which the node has."""
    image = worker_with_vllm(print)
    cluster.import_image(image.archive)
    return image.name


def test_real_replicas_answer_through_the_service(
    product: Product,
    namespace: str,
    worker_image: str,
    record_property: Callable[[str, object], None],
) -> None:
    restrict(product.cluster, namespace)
    provide_model(product.cluster, namespace, print)
    engine = yaml.safe_load((EXAMPLES / "vllm-cpu.yaml").read_text())["spec"]["engine"]
    applied = time.monotonic()
    product.apply_example(
        "vllm-cpu.yaml",
        NAME,
        namespace,
        model={"uri": MODEL_URI},
        engine={**engine, "image": worker_image},
        replicasPerPack=REPLICAS,
        autoscaling=None,
    )

    answered: dict[str, str] = {}

    def unanswered() -> str:
        try:
            address = product.cluster.service_address(NAME, namespace)
            answered.update({each: complete(address, each) for each in QUESTIONS})
        except (KubectlError, OSError) as error:
            return f"{error}; {told(product.status(NAME, namespace))}"
        return ""

    until("the first completion", unanswered, START_SECONDS)
    seconds = time.monotonic() - applied
    print(f"{seconds:.1f} s from `kubectl apply` to the first completion of vLLM on the CPU")
    record_property("first_completion_seconds", seconds)
    for question, expected in QUESTIONS.items():
        assert expected in answered[question], answered

    def missing() -> str:
        status = product.status(NAME, namespace)
        ready = status.get("readyReplicas")
        return "" if ready == REPLICAS else f"{ready} are; {told(status)}"

    until(f"{REPLICAS} replicas that answer", missing, START_SECONDS)
    product.cluster.wait(f"slm/{NAME}", namespace=namespace)
    (pack,) = product.packs(NAME, namespace)
    assert pack["spec"]["containers"][0]["image"] == worker_image


def complete(address: str, prompt: str) -> str:
    """The text that the service adds to ``prompt``. Raises OSError where there is none."""
    body = {"model": NAME, "prompt": prompt, "max_tokens": 12, "temperature": 0}
    connection = HTTPConnection(address, timeout=60)
    try:
        connection.request(
            "POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        said = answer.read().decode()
    finally:
        connection.close()
    if answer.status != 200:
        raise OSError(f"{answer.status}: {said}")
    text: str = json.loads(said)["choices"][0]["text"]
    return text
