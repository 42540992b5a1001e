"""What integration tests share: one API server with a namespace for each test, and one stack of
control plane, operator and local node with services of its own for each test."""

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from kubernetes import client, config

from operator_rig import BARE_IMAGE, OPERATOR_ARGUMENTS, NewService, Service
from slm_dev.controlplane import ControlPlane, find_or_build
from slm_dev.prometheus import Programs, PrometheusMissing, find_or_fetch
from slm_dev.stack import Stack, StackSettings
from slm_operator.cluster.profiles import CONFIG_MAP

LONGEST = (
    "test_operator_demand.py",
    "test_demo_disturbed.py",
    "test_demo.py",
    "test_operator_vllm.py",
    "test_operator_search.py",
    "test_operator_faults.py",
    "test_agent.py",
    "test_operator_lifecycle.py",
    "test_operator_bad_input.py",
    "test_operator_rollout.py",
    "test_operator_live.py",
    "test_operator_profiles.py",
    "test_api_faults.py",
    "test_leader_election.py",
)
"""The files that take a minute and more, the longest first: begun last, one would run on alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """A running control plane. A test that stops its API server starts it again."""
    with ControlPlane(find_or_build(print)) as running:
        yield running


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """The name of a new namespace.

    Its Pods are deleted after the test, since a node of a later test would run them; whatever else
    is in it stays until the control plane ends.
    """
    name = f"test-{uuid.uuid4().hex[:8]}"
    kubeconfig = str(control_plane.kubeconfig("admin"))
    with config.new_client_from_config(kubeconfig) as api_client:
        core = client.CoreV1Api(api_client)
        core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=name)))
        yield name
        core.delete_collection_namespaced_pod(name, grace_period_seconds=0)


@pytest.fixture(scope="session")
def bare_programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of the image ``BARE_IMAGE``: Python alone, until a test adds more."""
    folder = tmp_path_factory.mktemp("programs")
    # A wrapper, since a link would hide which virtual environment the interpreter belongs to.
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return folder


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def operator_stack(bare_programs: Path) -> AsyncIterator[Stack]:
    """The whole system. A test that stops a part of it starts it again."""
    settings = StackSettings(
        operator_arguments=OPERATOR_ARGUMENTS,
        images={BARE_IMAGE: {"PATH": str(bare_programs)}},
    )
    binaries = await asyncio.to_thread(find_or_build, print)
    async with Stack(binaries, settings) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def new_service(operator_stack: Stack) -> AsyncIterator[NewService]:
    """Applies a service of a new name; it is being deleted after the test. What other tests'
    services measured is forgotten before it, so that those of this one search."""
    made = []
    await operator_stack.kube.delete("v1", "ConfigMap", CONFIG_MAP, "default")

    async def apply(spec: dict[str, Any]) -> Service:
        service = Service(operator_stack, f"s{uuid.uuid4().hex[:6]}", spec)
        made.append(service)
        await service.apply()
        return service

    yield apply
    for service in made:
        await service.delete()
        await service.collect_garbage()


@pytest.fixture(scope="session")
def programs() -> Programs:
    """Prometheus and promtool."""
    try:
        return find_or_fetch()
    except PrometheusMissing as error:
        pytest.skip(str(error))
