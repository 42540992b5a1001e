"""A node that runs the Pods of a real API server as processes of this host."""

import asyncio
import base64
import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Coroutine, Iterator, Mapping
from ipaddress import IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Self

from slm_dev.local_node import logs, registration
from slm_dev.local_node.addresses import DEFAULT_NETWORK, AddressPool
from slm_dev.local_node.api import ApiError, ApiServer, Change, Listing, persist
from slm_dev.local_node.container import Surroundings, Timing
from slm_dev.local_node.environment import LocalImage
from slm_dev.local_node.pod import NODE_LOST, PodRunner, delete_pod, write_status
from slm_dev.local_node.scheduler import Scheduler
from slm_dev.local_node.spec import Json, ObjectKind, PodSpec, parse_pod

NODE_NAME = "local"

# Beyond the Pods' own grace: for the last words to the API server.
_LEAVE_SECONDS = 5.0

log = logging.getLogger(__name__)


class LocalNode:
    """Registers a Node and runs the Pods that are bound to it; an asynchronous context manager. The
    first node of a cluster also schedules, for all.

    Pods share the host's network and file system. Each has a loopback address of its own, to which
    its processes must bind, and a private folder, given to them as HOME and TMPDIR, which is the
    only place for them to write: volumes are accepted if a process on the host can do without a
    mount (emptyDir, hostPath mounted at its own path, and Secrets whose files are named by
    variables), and nothing is mounted. Resource
    limits, security contexts and node selectors have no effect.

    On exit all Pods are stopped and set Failed, and all files are removed. If this process is
    killed, the processes of its Pods are killed with it, and the next node sets those Pods Failed
    with reason NodeLost: none is adopted.

    Args:
        kubeconfig: of user system:node:NAME in group system:nodes (authorization mode Node).
        scheduler_kubeconfig: of a user with the rights of the role system:kube-scheduler; None
            where another node schedules.
        images: by the names that Pods use.
        root: a folder for this node alone; made if missing. Keep its path short: Pods put
            sockets below it.
        network: loopback addresses for Pods.
        extended_resources: what the node offers beyond CPU and memory, such as nvidia.com/gpu.
        most_pods: that run at the same time.
        timing: for tests.
        name: of the Node.
    """

    def __init__(
        self,
        *,
        kubeconfig: Path,
        scheduler_kubeconfig: Path | None,
        images: Mapping[str, LocalImage],
        root: Path,
        network: IPv4Network = DEFAULT_NETWORK,
        extended_resources: Mapping[str, int] | None = None,
        most_pods: int = registration.MOST_PODS,
        timing: Timing | None = None,
        name: str = NODE_NAME,
    ) -> None:
        self._name = name
        self._kubeconfig = kubeconfig
        self._scheduler_kubeconfig = scheduler_kubeconfig
        self._images = dict(images)
        self._root = root.absolute()
        self._addresses = AddressPool(network)
        self._extended = dict(extended_resources or {})
        self._most_pods = most_pods
        self._timing = timing or Timing()
        self._runners: dict[str, PodRunner] = {}
        # Pods that an earlier node left behind, and whether they are being deleted.
        self._left_behind: dict[str, bool] = {}
        self._pod_tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._service_tasks: list[asyncio.Task[None]] = []
        self._chores: set[asyncio.Task[None]] = set()
        self._failure: asyncio.Future[None] | None = None
        self._resources = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Registers the node and begins to run Pods.

        Raises:
            ApiError: the API server does not answer or refuses the node.
            RuntimeError: another node uses the same root.
        """
        self._failure = asyncio.get_running_loop().create_future()
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(_exclusive_folder(self._root))
            self._api = await stack.enter_async_context(ApiServer(self._kubeconfig))
            await registration.register(self._api, self._name, self._extended, self._most_pods)
            if self._scheduler_kubeconfig is not None:
                api = await stack.enter_async_context(ApiServer(self._scheduler_kubeconfig))
                self._service_tasks.append(self._task(Scheduler(api).run()))
            self._resources = stack.pop_all()
        self._around = Surroundings(self._images, self._read_object, self._timing, self._root)
        self._service_tasks.append(self._task(self._follow_pods()))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        async with self._resources:
            await _cancel(self._service_tasks)
            for runner in self._runners.values():
                runner.shut_down(self._timing.shutdown_grace_seconds)
            running = list(self._pod_tasks.values())
            if running:
                seconds = self._timing.shutdown_grace_seconds + _LEAVE_SECONDS
                await asyncio.wait(running, timeout=seconds)
            await _cancel([*running, *self._chores])
            try:
                await registration.sign_off(self._api, self._name)
            except ApiError as failure:
                log.warning("Could not sign off the node: %s", failure)
        assert self._failure is not None  # noqa: S101
        if kind is None and self._failure.done():
            self._failure.result()

    async def failed(self) -> None:
        """Waits for as long as the node works; raises what broke it if it breaks."""
        assert self._failure is not None  # noqa: S101
        await asyncio.shield(self._failure)

    def logs(self, namespace: str, pod: str) -> str:
        """What the Pod's containers wrote in their last two attempts.

        Raises:
            FileNotFoundError: the node runs no such Pod, or has not started it yet.
        """
        return logs.read(self._root, namespace, pod)

    async def _follow_pods(self) -> None:
        query = {"fieldSelector": f"spec.nodeName={self._name}"}
        async for event in self._api.follow("/api/v1/pods", query):
            match event:
                case Listing(items):
                    present = {pod["metadata"]["uid"] for pod in items}
                    for uid in (self._runners.keys() | self._left_behind.keys()) - present:
                        self._pod_is_gone(uid)
                    for pod in items:
                        self._pod_is(pod)
                case Change(pod, gone=True):
                    self._pod_is_gone(pod["metadata"]["uid"])
                case Change(pod):
                    self._pod_is(pod)

    def _pod_is_gone(self, uid: str) -> None:
        self._left_behind.pop(uid, None)
        runner = self._runners.pop(uid, None)
        if runner is not None:
            runner.vanish()

    def _pod_is(self, pod: Json) -> None:
        metadata, status = pod["metadata"], pod.get("status", {})
        uid = metadata["uid"]
        deleting = metadata.get("deletionTimestamp") is not None
        if uid in self._runners:
            if deleting:
                self._runners[uid].delete(metadata.get("deletionGracePeriodSeconds", 0))
            return
        spec = parse_pod(pod)
        if deleting:
            if not self._left_behind.get(uid):
                self._left_behind[uid] = True
                self._chore(delete_pod(self._api, spec))
        elif uid in self._left_behind or status.get("phase") in ("Succeeded", "Failed"):
            return
        elif status.get("startTime"):
            self._left_behind[uid] = False
            self._chore(self._give_up(spec))
        else:
            self._start(spec)

    def _chore(self, work: Coroutine[None, None, None]) -> None:
        task = self._task(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def _give_up(self, pod: PodSpec) -> None:
        status = {"phase": "Failed", "reason": NODE_LOST.reason, "message": NODE_LOST.message}

        async def attempt() -> None:
            await write_status(self._api, pod, status)

        await persist(f"set pod {pod.namespace}/{pod.name} Failed", attempt)

    def _start(self, pod: PodSpec) -> None:
        home = self._root / "pods" / pod.uid[:8]
        runner = PodRunner(pod, self._api, self._addresses, home, self._around)
        self._runners[pod.uid] = runner
        key = pod.namespace, pod.name
        task = self._task(self._run_after(self._pod_tasks.get(key), runner))
        self._pod_tasks[key] = task
        task.add_done_callback(lambda done: self._forget_task(key, done))

    async def _run_after(self, former: asyncio.Task[None] | None, runner: PodRunner) -> None:
        """Runs a Pod when an earlier one of its name, which may still be ending, is no more."""
        if former is not None:
            await asyncio.wait({former})
        await runner.run()

    def _forget_task(self, key: tuple[str, str], done: asyncio.Task[None]) -> None:
        if self._pod_tasks.get(key) is done:
            del self._pod_tasks[key]

    def _task(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(self._note_failure)
        return task

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        assert self._failure is not None  # noqa: S101
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("A part of the local node broke", exc_info=error)
            if not self._failure.done():
                self._failure.set_exception(error)

    async def _read_object(
        self, kind: ObjectKind, namespace: str, name: str
    ) -> Mapping[str, str] | None:
        plural = {"secret": "secrets", "configmap": "configmaps"}[kind]
        try:
            found = await self._api.get(f"/api/v1/namespaces/{namespace}/{plural}/{name}")
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        data: dict[str, str] = found.get("data") or {}
        if kind == "configmap":
            return data
        return {
            key: base64.b64decode(value).decode(errors="surrogateescape")
            for key, value in data.items()
        }


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def _exclusive_folder(root: Path) -> Iterator[None]:
    """Makes the folder and empties it of what a node that was killed left, before and after."""
    made = not root.exists()
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(
                f"another local node uses {root}: stop it or choose another root"
            ) from error
        _remove_files(root)
        (root / "pods").mkdir(mode=0o700)
        try:
            yield
        finally:
            _remove_files(root)
            if made and not any(root.iterdir()):
                root.rmdir()
    finally:
        os.close(folder)


def _remove_files(root: Path) -> None:
    shutil.rmtree(root / "pods", ignore_errors=True)
    for pattern in ("*_*_*_*.log", "*_*_*_*.log.1"):
        for log_file in root.glob(pattern):
            log_file.unlink()
