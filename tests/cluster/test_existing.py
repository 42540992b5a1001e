"""The product in a cluster that was there before: `make cluster KUBECONFIG=...`, answered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml
from product import Product

from slm_dev.cluster import Cluster
from slm_dev.cluster.network import run
from slm_dev.release import CHART, NAME, NAMESPACE

REGISTRY = "registry.invalid/team"
"""Where the node would pull what it does not have."""
SERVICE = "chat"


def test_the_product_serves_in_a_cluster_that_was_there_before(
    product: Product, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    own = tmp_path / "kubeconfig"
    own.write_bytes(cluster.kubeconfig.read_bytes())
    give_images(product)
    product.release.call("uninstall", NAME, "--wait", "--ignore-not-found")
    no = install(own, "n")
    assert "Nothing was changed." in no
    assert cluster.kubectl("-n", NAMESPACE, "get", "deployments", "-o", "name") == ""

    yes = install(own, "y")
    assert f"export KUBECONFIG={own}" in yes
    try:
        product.apply_example(
            "simulated-h100.yaml", SERVICE, namespace, replicasPerPack=1, autoscaling=None
        )
        cluster.wait(f"slm/{SERVICE}", namespace=namespace)
        assert product.ask_from_a_pod(SERVICE, namespace).strip()
    finally:
        cluster.kubectl("-n", namespace, "delete", "slm", "--all")
        product.release.call("uninstall", NAME, "--wait")


def install(kubeconfig: Path, answer: str) -> str:
    """Run what `make cluster KUBECONFIG=... REGISTRY=...` runs, and return what it prints."""
    command = (sys.executable, "-m", "slm_dev.cluster", "install")
    where = ("--kubeconfig", str(kubeconfig), "--registry", REGISTRY)
    done = subprocess.run(
        [*command, *where], input=f"{answer}\n", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def give_images(product: Product) -> None:
    """Let the node have the images under the names that a registry would give them."""
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    containerd = ("ctr", "-a", str(product.cluster.layout.containerd_socket), "-n", "k8s.io")
    for image, name in (
        (product.images.operator, "slm-operator"),
        (product.images.worker, "slm-worker"),
    ):
        run(*containerd, "images", "tag", "--force", image.name, f"{REGISTRY}/{name}:{version}")
