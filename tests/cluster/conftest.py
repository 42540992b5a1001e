"""What the tests on a real cluster share: one cluster of this host, for all of them."""

import os
import time
import uuid
from collections.abc import Generator, Iterator

import pytest
from pods import GPUS
from product import Product, restrict

from slm_dev import helm, images
from slm_dev.cluster import Cluster, KubectlError, find_or_build, host_lock, obstacles
from slm_dev.release import NAMESPACE, Release

SHOWN = (
    ("get", "pods,slm", "--all-namespaces", "-o", "wide"),
    ("get", "events", "--all-namespaces", "--sort-by=.metadata.creationTimestamp"),
)
SHOWN_CHARACTERS = 12_000
KEEP_VARIABLE = "SLM_CLUSTER_KEEP"
ORDER = (
    "test_e2e.py",
    "test_vllm.py",
    "test_examples.py",
    "test_upgrade.py",
    "test_security.py",
    "test_chaos.py",
    "test_chaos_node.py",
    "test_uninstall.py",
    "test_existing.py",
    "test_node.py",
)
"""Those that need the product first; then the one that uninstalls it, and the one that removes the
cluster from under it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(ORDER)}
    items.sort(key=lambda item: rank.get(item.path.name, len(ORDER)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows what the cluster looked like: it is gone when somebody reads of it."""
    report = yield
    running = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and isinstance(running, Cluster):
        for arguments in SHOWN:
            try:
                shown = running.kubectl(*arguments)
            except (KubectlError, OSError) as error:
                shown = str(error)
            report.sections.append((f"kubectl {' '.join(arguments)}", shown[-SHOWN_CHARACTERS:]))
    return report


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A new cluster with two simulated GPUs, removed at the end.

    With SLM_CLUSTER_KEEP=1 one that runs is used, and is left running.
    """
    problems = obstacles()
    if problems:
        pytest.skip("no real cluster here: " + "; ".join(problems))
    keep = bool(os.environ.get(KEEP_VARIABLE))
    with host_lock(print):
        running = Cluster(find_or_build(print))
        if running.running() and not keep:
            pytest.fail(
                "A cluster runs on this host: `make cluster-down` removes it, and "
                f"{KEEP_VARIABLE}=1 makes the tests use it."
            )
        try:
            running.start(GPUS)
            yield running
        finally:
            if not keep:
                running.remove()


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """The name of a new namespace, deleted after the test with all that is in it."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")


@pytest.fixture(scope="session")
def product(cluster: Cluster) -> Product:
    """The operator, installed by helm with images of this checkout."""
    built = images.find_or_build(print)
    release = Release(helm.find_or_build(print), cluster.kubeconfig)
    for image in (built.operator, built.worker):
        cluster.import_image(image.archive)
    restrict(cluster, NAMESPACE)
    product = Product(cluster, release, built, time.monotonic())
    release.install(product.values)
    return product
