"""The whole system on this host: control plane, operator and local node, each a process."""

import asyncio
import contextlib
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import yaml

from slm_dev.controlplane import Binaries, ControlPlane
from slm_dev.local_node import logs
from slm_dev.local_node.addresses import AddressPool
from slm_dev.local_node.registration import MOST_PODS
from slm_dev.program import Program, StackError, uninterrupted
from slm_operator.api.crd import crd
from slm_operator.api.models import API_VERSION, KIND, SLMService
from slm_operator.cluster.agents import Agents
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Kube, get_or_none
from slm_operator.keys import Keys
from slm_operator.render.children import pack_name
from slm_worker.wire import PackState

REPOSITORY = Path(__file__).resolve().parents[2]
RBAC = REPOSITORY / "charts/slm-operator/files/operator-rbac.yaml"
NAMESPACED = (KIND, "Role", "RoleBinding")
WORKER_IMAGE = "slm-worker"
SECOND_NODE = "second"
HEALTH_PORT = 8081
START_SECONDS = 150.0
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class StackSettings:
    operator_arguments: Sequence[str] = ()
    """Further arguments of the operator, such as --min-window-seconds."""
    worker_environment: Mapping[str, str] = field(default_factory=dict)
    """Further variables of the worker image."""
    worker_programs: Sequence[Path] = ()
    """Folders with further programs of the worker image."""
    images: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Further images that Pods can name, each with its environment."""
    most_pods: int = MOST_PODS
    """That a node runs at the same time."""
    audit_log: Path | None = None
    """Gets one JSON line of metadata for each request to the API server."""


class Stack:
    """A control plane with the CRD and the operator's RBAC, the operator and a local node; an
    asynchronous context manager.

    On exit everything is stopped and every file removed, and also when this process dies, even by
    SIGKILL. The worker image that Pods find is this interpreter's environment.
    """

    kube: Kube
    """As the cluster's administrator."""
    operator: Program
    node: Program

    def __init__(self, binaries: Binaries, settings: StackSettings | None = None) -> None:
        self._settings = settings or StackSettings()
        self._control_plane = ControlPlane(binaries, self._settings.audit_log)
        self._resources = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Starts everything and waits until it is of use.

        Raises:
            ControlPlaneStartError, StackError: a part did not start.
            KubeError: the API server refused a manifest.
        """
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(uninterrupted, self._control_plane.stop)
            await uninterrupted(self._control_plane.start)
            self.kube = await Kube.connect(self.kubeconfig)
            stack.push_async_callback(self.kube.close)
            await self._install()
            self._session = await stack.enter_async_context(aiohttp.ClientSession())
            await self._start_programs(stack)
            self._resources = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._resources.aclose()

    @property
    def kubeconfig(self) -> Path:
        """Of the cluster's administrator."""
        return self._control_plane.kubeconfig("admin")

    @property
    def operator_kubeconfig(self) -> Path:
        """Of the operator, with its rights."""
        return self._control_plane.kubeconfig("operator")

    @property
    def key(self) -> str:
        """The operator's key."""
        return self._key_file.read_text()

    @property
    def operator_url(self) -> str:
        """Where the operator serves /healthz and /metrics."""
        return f"http://{self._operator_address}:{HEALTH_PORT}"

    async def apply(self, manifests: str) -> None:
        """Applies the objects of a YAML text. Raises KubeError."""
        for manifest in yaml.safe_load_all(manifests):
            if manifest["kind"] in NAMESPACED:
                manifest["metadata"].setdefault("namespace", "default")
            await self.kube.apply(manifest)

    async def start_operator(self) -> None:
        """Starts the operator, again after a kill, and waits until it is healthy.

        Raises:
            StackError: it ended, or was not healthy in time.
        """
        self.operator.launch()
        await self._wait_for(self.operator, self._operator_is_healthy)

    @contextlib.asynccontextmanager
    async def another_operator(
        self,
        name: str,
        *arguments: str,
        kubeconfig: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> AsyncIterator[tuple[Program, str]]:
        """A further operator, which is not started yet, and the address where it will serve
        /healthz and /metrics. It ends with the context. ``kubeconfig``: of another way to the API
        server. ``variables``: further ones of its environment."""
        address = self._addresses.claim()
        way = {"KUBECONFIG": str(kubeconfig)} if kubeconfig else {}
        environment = {**self._variables(), **way, **(variables or {})}
        command = [*self._operator_command(address), *arguments]
        program = Program(self._folder, name, command, environment)
        try:
            yield program, f"http://{address}:{HEALTH_PORT}"
        finally:
            await program.stop()
            self._addresses.release(address)

    async def start_node(self) -> None:
        """Starts the node, again after a kill, and waits until it runs Pods.

        Raises:
            StackError: it ended, or was not ready in time.
        """
        self.node.launch()
        await self._wait_for(self.node, _prints_ready(self.node))

    @contextlib.asynccontextmanager
    async def second_node(self) -> AsyncIterator[Program]:
        """A further Node, ``SECOND_NODE``, that runs Pods. It ends with the context, and the Pods
        that it still has with it; the first goes on to schedule for both.

        Raises:
            StackError: it ended, or was not ready in time.
            KubeError: the Node could not be removed.
        """
        command = [
            *self._node_command(self._folder / SECOND_NODE),
            f"--name={SECOND_NODE}",
            f"--kubeconfig={self._control_plane.kubeconfig('second-node')}",
        ]
        program = Program(self._folder, SECOND_NODE, command, dict(os.environ))
        try:
            program.launch()
            await self._wait_for(program, _prints_ready(program))
            yield program
        finally:
            await program.stop()
            await self.kube.delete("v1", "Node", SECOND_NODE)

    def rotate_key(self) -> None:
        """Gives the operator another key, as a changed Secret does."""
        new = self._key_file.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(secrets.token_urlsafe(32))
        new.replace(self._key_file)

    async def stop_apiserver(self) -> None:
        """Ends the API server alone; what it stores stays."""
        await uninterrupted(self._control_plane.stop_apiserver)

    async def start_apiserver(self) -> None:
        """Starts the API server again, at the same address. Raises ControlPlaneStartError."""
        await uninterrupted(self._control_plane.start_apiserver)

    async def snapshot(self, copy: Path) -> None:
        """Copies what the API server stores to a new folder; it is restarted for that. Raises
        ControlPlaneStartError."""
        await uninterrupted(lambda: self._control_plane.snapshot(copy))

    async def restore(self, copy: Path) -> None:
        """Goes back to what a snapshot holds. Raises ControlPlaneStartError."""
        await uninterrupted(lambda: self._control_plane.restore(copy))

    async def service(self, name: str, namespace: str = "default") -> SLMService:
        """The SLMService as it is now. Raises KubeError."""
        obj = await self.kube.get(API_VERSION, KIND, name, namespace)
        return SLMService.from_object(obj)

    async def pack_address(self, service: SLMService, ordinal: int = 0) -> str:
        """The address of a pack's agent and router; empty while it has none. Raises KubeError."""
        pod = await get_or_none(
            self.kube, "v1", "Pod", pack_name(service, ordinal), namespace=service.namespace
        )
        address: str = ((pod or {}).get("status") or {}).get("podIP", "")
        return address

    async def agent_state(self, service: SLMService, ordinal: int = 0) -> PackState:
        """What a pack's agent answers. Raises KubeError and AgentError."""
        address = await self.pack_address(service, ordinal)
        return await Agents(self._session).state(address, self._keys.tokens(service.uid))

    def pack_log(self, service: SLMService, ordinal: int = 0) -> str:
        """What the pack wrote; empty when it never started."""
        with contextlib.suppress(FileNotFoundError):
            return logs.read(self._node_root, service.namespace, pack_name(service, ordinal))
        return ""

    async def _install(self) -> None:
        await self.kube.apply(crd())
        await self.apply(RBAC.read_text())
        async with asyncio.timeout(START_SECONDS):
            await _until(self._serves_the_resource)

    async def _serves_the_resource(self) -> bool:
        """A new resource is first unknown (404), then without its storage (429)."""
        try:
            await self.kube.list(API_VERSION, KIND)
        except KubeError as error:
            if error.status in (404, 429):
                return False
            raise
        return True

    async def _start_programs(self, stack: contextlib.AsyncExitStack) -> None:
        self._folder = folder = Path(tempfile.mkdtemp(prefix="slm-stack-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        self._key_file = folder / "key"
        self.rotate_key()
        self._keys = Keys.from_file(self._key_file)
        self._addresses = AddressPool()
        self._operator_address = self._addresses.claim()
        stack.callback(self._addresses.release, self._operator_address)
        self._node_root = folder / "node"
        command = self._operator_command(self._operator_address)
        self.operator = Program(folder, "operator", command, self._variables())
        command = [
            *self._node_command(self._node_root),
            f"--kubeconfig={self._control_plane.kubeconfig('node')}",
            f"--scheduler-kubeconfig={self.kubeconfig}",
        ]
        self.node = Program(folder, "node", command, dict(os.environ))
        stack.push_async_callback(self._stop_programs)
        self.node.launch()
        self.operator.launch()
        await self._wait_for(self.node, _prints_ready(self.node))
        await self._wait_for(self.operator, self._operator_is_healthy)

    async def _stop_programs(self) -> None:
        # The operator first: it would create anew the Pods that the node ends.
        await self.operator.stop()
        await self.node.stop()

    def _operator_command(self, address: str) -> list[str]:
        return [
            "slm_operator",
            f"--worker-image={WORKER_IMAGE}",
            f"--key-file={self._key_file}",
            f"--health-address={address}",
            f"--health-port={HEALTH_PORT}",
            *self._settings.operator_arguments,
        ]

    def _variables(self) -> dict[str, str]:
        kubeconfig = str(self.operator_kubeconfig)
        return {**os.environ, "KUBECONFIG": kubeconfig}

    def _node_command(self, root: Path) -> list[str]:
        folders = [Path(sys.executable).parent, *self._settings.worker_programs]
        path = os.pathsep.join([*map(str, folders), os.environ.get("PATH", os.defpath)])
        worker = {"PATH": path, **self._settings.worker_environment}
        images = {WORKER_IMAGE: worker, **self._settings.images}
        return [
            "slm_dev.local_node",
            f"--root={root}",
            f"--pods={self._settings.most_pods}",
            *(
                f"--image={image}={name}={value}"
                for image, environment in images.items()
                for name, value in environment.items()
            ),
        ]

    async def _operator_is_healthy(self) -> bool:
        url = f"{self.operator_url}/healthz"
        try:
            async with self._session.get(url, timeout=aiohttp.ClientTimeout(total=2)) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, OSError):
            return False

    async def _wait_for(self, program: Program, condition: Callable[[], Awaitable[bool]]) -> None:
        try:
            async with asyncio.timeout(START_SECONDS):
                await _until(condition, program.check)
        except TimeoutError:
            raise StackError(
                f"The {program.name} was not ready after {START_SECONDS:.0f} s. Its log ends:\n"
                f"{program.log_tail()}"
            ) from None


def _prints_ready(program: Program) -> Callable[[], Awaitable[bool]]:
    async def printed() -> bool:
        return "ready" in program.log_tail().splitlines()

    return printed


async def _until(
    condition: Callable[[], Awaitable[bool]], check: Callable[[], None] | None = None
) -> None:
    while not await condition():
        if check is not None:
            check()
        await asyncio.sleep(POLL_SECONDS)
