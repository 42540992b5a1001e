"""A namespace to put Pods into, and a node that runs them."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from local_pods import GPU, IMAGE, PROGRAMS, Cluster
from slm_dev.controlplane import ControlPlane
from slm_dev.local_node import LocalImage, LocalNode, Timing
from slm_dev.local_node.api import ApiServer


@pytest.fixture
async def cluster(control_plane: ControlPlane, namespace: str) -> AsyncIterator[Cluster]:
    async with ApiServer(control_plane.kubeconfig("admin")) as api:
        yield Cluster(api, namespace)


@pytest.fixture
def new_node(control_plane: ControlPlane, tmp_path: Path) -> Callable[[], LocalNode]:
    def build() -> LocalNode:
        return LocalNode(
            kubeconfig=control_plane.kubeconfig("node"),
            scheduler_kubeconfig=control_plane.kubeconfig("admin"),
            images={IMAGE: LocalImage({"PATH": PROGRAMS, "FROM_IMAGE": "image"})},
            root=tmp_path / "node",
            extended_resources={GPU: 1},
            timing=Timing(
                restart_backoff_seconds=0.5,
                restart_backoff_cap_seconds=1,
                config_retry_seconds=0.2,
                shutdown_grace_seconds=5,
            ),
        )

    return build


@pytest.fixture
async def node(new_node: Callable[[], LocalNode]) -> AsyncIterator[LocalNode]:
    async with new_node() as running_node:
        yield running_node
