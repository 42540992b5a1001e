"""The end of a release: what it leaves, as docs/install.md says, and which rights it has used."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from itertools import product as combinations

import pytest
from product import READY_SECONDS, Json, Product, await_completions, load, restrict

from slm_dev.cluster import Cluster, until
from slm_dev.release import NAME, NAMESPACE

CHAT = "left-behind"
CRD = "slmservices.serving.slm.dev"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{NAME}"
WHOLE_SUITE = {"test_e2e.py", "test_chaos.py"}
"""Files that let the operator do all that it does."""

Right = tuple[str, str, str]
"""API group, resource, verb."""

NOT_SEEN = {
    ("serving.slm.dev", "slmservices/finalizers", "update"): "no request of its own: it is asked "
    "for by OwnerReferencesPermissionEnforcement, where a cluster has that admission plugin",
    ("", "events", "patch"): "only when the same is said again within minutes",
}
"""Rights that are granted and do not show in the audit log of this suite, and why."""


@pytest.fixture(scope="module")
def home(cluster: Cluster) -> Iterator[str]:
    """The namespace of a service that outlives the operator."""
    name = f"left-{uuid.uuid4().hex[:6]}"
    restrict(cluster, name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def granted(product: Product) -> set[Right]:
    """What the chart's roles grant the operator, read before they go."""
    roles = (f"clusterrole/{NAMESPACE}-{NAME}", f"role/{NAME}-leader-election")
    rules = [
        rule for each in roles for rule in product.cluster.get(each, NAMESPACE).get("rules", [])
    ]
    return {right for rule in rules for right in rights(rule)}


@pytest.fixture(scope="module")
def refused(product: Product) -> list[str]:
    """What RBAC refused the operator, before its roles go, which end before its Pods."""
    requests = operator_requests(product.cluster)
    return [entry["requestURI"] for entry in requests if decision(entry) == "forbid"]


@pytest.mark.usefixtures("granted", "refused")
def test_uninstalling_leaves_the_crd_the_services_and_the_key(product: Product, home: str) -> None:
    cluster = product.cluster
    product.apply_example("simulated-h100.yaml", CHAT, home, replicasPerPack=1, autoscaling=None)
    cluster.wait(f"slm/{CHAT}", namespace=home)
    with load(product.url(CHAT, home), CHAT) as counts:
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


def test_every_right_was_used_and_none_was_missing(
    request: pytest.FixtureRequest, cluster: Cluster, granted: set[Right], refused: list[str]
) -> None:
    ran = {item.path.name for item in request.session.items}
    if not ran >= WHOLE_SUITE:
        pytest.skip(f"rights are compared after {' and '.join(sorted(WHOLE_SUITE))} alone")
    assert refused == []
    used = {right for entry in operator_requests(cluster) for right in used_by(entry)}
    assert used, "the operator is not in the audit log"
    assert used <= granted
    assert granted - used == set(NOT_SEEN) - used


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


def operator_requests(cluster: Cluster) -> list[Json]:
    """Of the audit log."""
    lines = cluster.layout.audit_log.read_text().splitlines()
    return [
        entry
        for entry in map(json.loads, lines)
        if entry["user"]["username"] == ACCOUNT and "objectRef" in entry
    ]


def decision(entry: Json) -> str:
    """What RBAC said to a request; a 403 may also say that a namespace ends."""
    found: str = entry["annotations"]["authorization.k8s.io/decision"]
    return found


def used_by(entry: Json) -> Iterator[Right]:
    if decision(entry) != "allow":
        return
    about = entry["objectRef"]
    subresource = about.get("subresource")
    resource = about["resource"] + (f"/{subresource}" if subresource else "")
    group = about.get("apiGroup", "")
    yield group, resource, entry["verb"]
    # An apply that makes the object is asked for both rights.
    if entry["verb"] == "patch" and entry["responseStatus"]["code"] == 201:
        yield group, resource, "create"


def rights(rule: Json) -> Iterator[Right]:
    yield from combinations(rule["apiGroups"], rule["resources"], rule["verbs"])
