"""The end of a release: what it leaves, as docs/install.md says."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import pytest
from product import READY_SECONDS, Product, await_completions, load, restrict

from slm_dev.cluster import Cluster, until
from slm_dev.release import NAME, NAMESPACE

CHAT = "left-behind"
CRD = "slmservices.serving.slm.dev"


@pytest.fixture(scope="module")
def home(cluster: Cluster) -> Iterator[str]:
    """The namespace of a service that outlives the operator."""
    name = f"left-{uuid.uuid4().hex[:6]}"
    restrict(cluster, name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def test_uninstalling_leaves_the_crd_the_services_and_the_key(product: Product, home: str) -> None:
    cluster = product.cluster
    product.apply_example("simulated-h100.yaml", CHAT, home, replicasPerPack=1, autoscaling=None)
    cluster.wait(f"slm/{CHAT}", namespace=home)
    url = f"http://{cluster.service_address(CHAT, home)}"
    with load(url, CHAT) as counts:
        product.release.call("uninstall", NAME, "--wait")
        # Helm leaves the Pod of a test, which keeps its log.
        test = f"pod/{NAME}-test"
        cluster.kubectl("-n", NAMESPACE, "delete", test, "--ignore-not-found")

        def missing() -> str:
            return cluster.kubectl("-n", NAMESPACE, "get", "pods", "-o", "name")

        until("the end of the operator's Pods", missing, READY_SECONDS)
        await_completions(counts, 8)
    assert counts.failed == 0, counts
    of_release = "app.kubernetes.io/part-of=slm-operator"
    kinds = (
        "deployments,services,secrets,serviceaccounts,roles,rolebindings,poddisruptionbudgets,"
        f"configmaps,networkpolicies,leases,clusterroles,clusterrolebindings,{CRD}"
    )
    left = cluster.kubectl("get", kinds, "--all-namespaces", "-l", of_release, "-o", "name")
    assert left.split() == [f"secret/{NAME}-key"]
    assert cluster.get(f"crd/{CRD}")["metadata"]["name"] == CRD


def test_services_and_crd_go_without_an_operator(product: Product, home: str) -> None:
    cluster = product.cluster
    cluster.kubectl("delete", "slm", "--all", "--all-namespaces")
    started = time.monotonic()

    def missing() -> str:
        managed = "app.kubernetes.io/managed-by=slm-operator"
        kinds = "pods,services,secrets,poddisruptionbudgets"
        return cluster.kubectl("get", kinds, "-A", "-l", managed, "-o", "name")

    until("the end of all packs by the garbage collector", missing, READY_SECONDS)
    print(f"packs were gone {time.monotonic() - started:.0f} s after their services")
    cluster.kubectl("delete", "crd", CRD)
    cluster.kubectl("-n", NAMESPACE, "delete", f"secret/{NAME}-key", f"lease/{NAME}")
    kinds = "all,secrets,roles,rolebindings,leases,poddisruptionbudgets"
    assert cluster.kubectl("-n", NAMESPACE, "get", kinds, "-o", "name") == ""
