"""A release's way forward, back and forward again, as docs/install.md says, while clients ask a
service."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import pytest
from product import READY_SECONDS, Json, Product, await_completions, load, restrict

from helm_rig import CRD, previous_chart, spec_fields
from slm_dev.cluster import Cluster, until
from slm_dev.cluster.network import run
from slm_dev.release import CHART, NAME, NAMESPACE, values_of

CHAT = "upgraded"
EARLIER = "earlier"
"""Tag of the images of the release before, which hold what today's hold."""
UPGRADE = ("upgrade", NAME, str(CHART), "--reset-then-reuse-values")
OPERATORS = 2
"""Of the chart's values. The release before has one."""


@pytest.fixture(scope="module")
def revision(product: Product, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Helm's number of the release before this one, which runs; at the end this one does again."""
    for image in (product.images.operator.name, product.images.worker.name):
        add_tag(product.cluster, image, EARLIER)
    chart = previous_chart(tmp_path_factory.mktemp("previous"))
    tags = {"image.tag": EARLIER, "worker.image.tag": EARLIER}
    before = replace(product.release, chart=chart)
    try:
        before.install({**product.values, **tags, "operator.replicas": "1"})
        await_operators(product, EARLIER, 1)
        history = json.loads(product.release.call("history", NAME, "--output", "json"))
        yield str(history[-1]["revision"])
    finally:
        product.release.install(product.values)
        await_operators(product, tag_of(product.images.operator.name), OPERATORS)


@pytest.fixture(scope="module")
def home(cluster: Cluster, revision: str) -> Iterator[str]:
    """The namespace of a service that the release before began."""
    name = f"release-{uuid.uuid4().hex[:6]}"
    restrict(cluster, name)
    yield name
    cluster.kubectl("-n", name, "delete", "slm", "--all")
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def url(product: Product, home: str) -> str:
    """Of that service."""
    product.apply_example("simulated-h100.yaml", CHAT, home, replicasPerPack=1, autoscaling=None)
    product.cluster.wait(f"slm/{CHAT}", namespace=home)
    return product.url(CHAT, home)


def test_upgrade_and_rollback_lose_no_request_and_leave_the_pack_alone(
    product: Product, home: str, url: str, revision: str
) -> None:
    today = tag_of(product.images.operator.name)
    (pack,) = packs(product, home)
    assert not knows_rollouts(product)
    with load(url, CHAT) as counts:
        with timed("upgrade"):
            upgrade(product, {"image.tag": today, "operator.replicas": str(OPERATORS)})
            await_operators(product, today, OPERATORS)
        assert knows_rollouts(product)
        edit(product, home, {"packs": 2, "rollout": {"progressDeadline": "5m"}})
        await_packs(product, home, 2)
        assert pack in packs(product, home)

        with timed("rollback"):
            product.release.call("rollback", NAME, revision)
            await_operators(product, EARLIER, 1)
        assert not knows_rollouts(product)
        # What the older CRD does not know is gone; the rest of the service can be read.
        assert "rollout" not in spec(product, home)
        edit(product, home, {"packs": 1})
        await_packs(product, home, 1)
        assert packs(product, home) == {pack}
        await_completions(counts, 4)
    assert counts.failed == 0, counts


def test_an_upgrade_that_brings_another_worker_replaces_the_pack_and_loses_no_request(
    product: Product, home: str, url: str
) -> None:
    before, asked = packs(product, home), spec(product, home)
    images = product.images
    values = values_of(images.operator.name, images.worker.name)
    with load(url, CHAT) as counts:
        with timed("upgrade of operator and worker"):
            upgrade(product, {**values, "operator.replicas": str(OPERATORS)})

            def missing() -> str:
                there = packs(product, home)
                return "" if len(there) == 1 and not there & before else str(there)

            until("another pack alone", missing, READY_SECONDS)
        await_packs(product, home, 1)
        await_operators(product, tag_of(images.operator.name), OPERATORS)
        await_completions(counts, 4)
    assert knows_rollouts(product)
    assert spec(product, home) == asked
    (pod,) = product.packs(CHAT, home)
    assert pod["spec"]["containers"][0]["image"] == images.worker.name
    assert counts.failed == 0, counts


@contextmanager
def timed(what: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - started:.1f} s")


def upgrade(product: Product, values: Mapping[str, str]) -> None:
    """To this checkout's chart, as docs/install.md says."""
    settings = ",".join(f"{path}={value}" for path, value in values.items())
    product.release.call(*UPGRADE, "--set", settings)


def await_operators(product: Product, tag: str, count: int) -> None:
    """Wait until the operators are so many of that image, and one of them leads."""
    kind = ("pods", "-l", "app.kubernetes.io/component=operator", "-o", "json")

    def missing() -> str:
        pods = json.loads(product.cluster.kubectl("-n", NAMESPACE, "get", *kind))["items"]
        found = {
            pod["metadata"]["name"]: (tag_of(pod["spec"]["containers"][0]["image"]), is_ready(pod))
            for pod in pods
        }
        right = list(found.values()) == [(tag, True)] * count
        return "" if right and product.leader() in found else f"{found}, {product.leader()} leads"

    until(f"{count} operators of {tag}", missing, READY_SECONDS)


def is_ready(pod: Json) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def await_packs(product: Product, namespace: str, count: int) -> None:
    """Wait until so many packs are ready and no other is there."""

    def missing() -> str:
        ready = product.status(CHAT, namespace).get("readyPacks")
        there = len(packs(product, namespace))
        return "" if ready == there == count else f"{ready} of {there} are ready"

    until(f"{count} packs", missing, READY_SECONDS)


def packs(product: Product, namespace: str) -> set[str]:
    """The identities of the service's Pods."""
    return {pod["metadata"]["uid"] for pod in product.packs(CHAT, namespace)}


def spec(product: Product, namespace: str) -> Json:
    found: Json = product.cluster.get(f"slm/{CHAT}", namespace)["spec"]
    return found


def edit(product: Product, namespace: str, change: Json) -> None:
    """What only an operator that leads follows."""
    patch = ("--type=merge", "--patch", json.dumps({"spec": change}))
    product.cluster.kubectl("-n", namespace, "patch", f"slm/{CHAT}", *patch)


def knows_rollouts(product: Product) -> bool:
    """Whether the CRD is this release's."""
    return "rollout" in spec_fields(product.cluster.get(f"crd/{CRD}"))


def add_tag(cluster: Cluster, image: str, tag: str) -> None:
    """Give an image of the node another tag."""
    repository, _, _ = image.rpartition(":")
    containerd = ("ctr", "-a", str(cluster.layout.containerd_socket), "-n", "k8s.io")
    run(*containerd, "images", "tag", "--force", image, f"{repository}:{tag}")


def tag_of(image: str) -> str:
    return image.rpartition(":")[2]
