"""One service's life as users see it: the chart by helm, a service by kubectl, a completion through
its Service, the way to the knee, more and fewer packs, a rollout, and its end."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator

import pytest
from product import READY_SECONDS, Json, Product, await_completions, load, restrict

from slm_dev.cluster import Cluster, KubectlError, until
from slm_dev.release import NAME, NAMESPACE

CHAT = "chat"
SELDOM = "seldom"
ENGINE = {"kind": "Simulated", "maxNumSeqs": 256}
"""With the batch of the published measurements. The example's own search also asks for a larger
one, which takes as long again."""
KNEE = 2
"""Replicas at the knee of OPT-1.3B on the simulated H100, as was measured on a real one."""
SEARCH_SECONDS = 300.0


@pytest.fixture(scope="module")
def home(cluster: Cluster) -> Iterator[str]:
    """The namespace of the service, which the tests of this file share."""
    name = f"end-to-end-{uuid.uuid4().hex[:6]}"
    restrict(cluster, name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def chat(product: Product, home: str) -> str:
    """The URL of an example's service, which is Ready."""
    product.apply_example("simulated-h100.yaml", CHAT, home, engine=ENGINE)
    product.cluster.wait(f"slm/{CHAT}", namespace=home)
    return product.url(CHAT, home)


def test_a_pod_gets_a_completion_through_the_service(
    product: Product, home: str, record_property: Callable[[str, object], None]
) -> None:
    product.apply_example("simulated-h100.yaml", CHAT, home, engine=ENGINE)
    said = product.ask_from_a_pod(CHAT, home)
    seconds = time.monotonic() - product.installed_at
    assert f"http://{CHAT}.{home}.svc answered" in said
    print(f"{seconds:.1f} s from `helm install` to the first completion (simulated)")
    record_property("first_completion_seconds", seconds)


def test_helm_test_passes(product: Product) -> None:
    said = product.release.call("test", NAME, "--logs")
    assert "Phase:          Succeeded" in said
    assert f"http://{NAME}-test.{NAMESPACE}.svc answered" in said

    def left() -> str:
        names = product.cluster.kubectl("-n", NAMESPACE, "get", "slm,pods", "-o", "name")
        made = {name for name in names.split() if f"{NAME}-test" in name}
        return " ".join(made - {f"pod/{NAME}-test"})

    until("the end of all but the Pod with the log", left, READY_SECONDS)


@pytest.mark.timeout(900)
def test_it_walks_to_the_knee_while_clients_use_it(product: Product, home: str, chat: str) -> None:
    with load(chat, CHAT) as counts:
        product.cluster.wait(
            f"slm/{CHAT}", "Calibrated", namespace=home, timeout_seconds=SEARCH_SECONDS
        )
        await_completions(counts, 5)
    status = product.status(CHAT, home)
    assert status["recommendedReplicasPerPack"] == KNEE
    assert status["readyReplicas"] == KNEE
    point = status["operatingPoint"]
    assert point["replicasPerPack"] == KNEE
    # Within a tenth of what was measured on the H100 that is simulated.
    assert 9_580 <= point["outputTokensPerSecond"] <= 11_710, point
    assert counts.failed == 0, counts


def test_kubectl_scale_adds_and_removes_a_pack_without_a_lost_request(
    product: Product, home: str, chat: str
) -> None:
    with load(chat, CHAT) as counts:
        product.cluster.kubectl("-n", home, "scale", f"slm/{CHAT}", "--replicas=2")
        await_packs(product, home, 2)
        # Connections stay with their pack; those of further clients go to both.
        with load(chat, CHAT, concurrency=12) as further:
            await_completions(further, 12)
            product.cluster.kubectl("-n", home, "scale", f"slm/{CHAT}", "--replicas=1")
            await_packs(product, home, 1)
            await_completions(further, 24)
    assert counts.failed == 0, counts
    assert further.failed == 0, further


def test_an_edit_replaces_the_pack_without_a_lost_request(
    product: Product, home: str, chat: str
) -> None:
    (before,) = product.packs(CHAT, home)
    with load(chat, CHAT) as counts:
        change = '{"spec":{"podTemplate":{"labels":{"team":"chat"}}}}'
        product.cluster.kubectl(
            "-n", home, "patch", f"slm/{CHAT}", "--type=merge", "--patch", change
        )

        def missing() -> str:
            pods = product.packs(CHAT, home)
            renewed = [pod for pod in pods if pod["metadata"]["labels"].get("team") == "chat"]
            return "" if len(renewed) == len(pods) == 1 else f"{len(renewed)} of {len(pods)} are"

        until("packs of the new template", missing, READY_SECONDS)
        await_packs(product, home, 1)
        await_completions(counts, 5)
    (after,) = product.packs(CHAT, home)
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert counts.failed == 0, counts


def test_a_horizontal_pod_autoscaler_adds_a_pack_under_load(
    product: Product, home: str, chat: str
) -> None:
    product.cluster.apply(autoscaler(home))
    with load(chat, CHAT, concurrency=16):
        await_packs(product, home, 2)
    product.cluster.kubectl("-n", home, "delete", f"hpa/{CHAT}")
    product.cluster.kubectl("-n", home, "scale", f"slm/{CHAT}", "--replicas=1")


def test_a_service_without_requests_gives_its_pack_back_and_the_next_one_waits_for_another(
    product: Product, home: str
) -> None:
    sparing = {"minPacks": 0, "maxPacks": 1, "scaleDownStabilization": "5s"}
    autoscaling = {**sparing, "calibration": {"when": "Never"}, "maxReplicasPerPack": 1}
    product.apply_example("simulated-h100.yaml", SELDOM, home, autoscaling=autoscaling)
    product.cluster.wait(f"slm/{SELDOM}", namespace=home)

    def packs() -> str:
        return " ".join(pod["metadata"]["name"] for pod in product.packs(SELDOM, home))

    until("no pack", packs, READY_SECONDS)
    said = product.ask_from_a_pod(SELDOM, home)
    assert "answered after" in said
    product.cluster.kubectl("-n", home, "delete", f"slm/{SELDOM}")


def test_a_deleted_service_leaves_nothing(product: Product, home: str, chat: str) -> None:
    product.cluster.kubectl("-n", home, "delete", f"slm/{CHAT}")
    kinds = "pods,services,endpointslices,secrets,poddisruptionbudgets"

    def missing() -> str:
        return product.cluster.kubectl("-n", home, "get", kinds, "-o", "name")

    until("the end of the service's objects", missing, READY_SECONDS)
    with pytest.raises(KubectlError, match="NotFound"):
        product.status(CHAT, home)


def await_packs(product: Product, namespace: str, packs: int) -> None:
    """Wait until so many packs are ready and no other is there."""

    def missing() -> str:
        status = product.status(CHAT, namespace)
        there = len(product.packs(CHAT, namespace))
        ready = status.get("readyPacks")
        return "" if there == ready == packs else f"{ready} of {there} are ready"

    until(f"{packs} packs", missing, READY_SECONDS)


def autoscaler(namespace: str) -> Json:
    """On the CPU that packs use, which the simulated engine needs for each token as vLLM does."""
    metric = {"name": "cpu", "target": {"type": "AverageValue", "averageValue": "50m"}}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": CHAT, "namespace": namespace},
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "serving.slm.dev/v1alpha1",
                "kind": "SLMService",
                "name": CHAT,
            },
            "minReplicas": 1,
            "maxReplicas": 2,
            "metrics": [{"type": "Resource", "resource": metric}],
        },
    }
