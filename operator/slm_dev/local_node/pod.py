"""Runs one Pod that is bound to the node, from its start until its object is gone."""

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from slm_dev.local_node import logs
from slm_dev.local_node.addresses import AddressPool
from slm_dev.local_node.api import (
    STRATEGIC_MERGE_PATCH,
    ApiError,
    ApiServer,
    Pauses,
    persist,
    pod_path,
)
from slm_dev.local_node.container import ContainerRunner, Surroundings
from slm_dev.local_node.spec import Json, PodSpec
from slm_dev.local_node.status import PodEnd, pod_status

NODE_SHUTDOWN = PodEnd("NodeShutdown", "Pod was terminated in response to imminent node shutdown.")
NODE_LOST = PodEnd(
    "NodeLost", "The local node that ran this Pod ended, and the Pod's processes with it."
)

_LAST_WRITE_SECONDS = 2.0

log = logging.getLogger(__name__)


class StatusWriter:
    """Brings the newest status to the API server, through outages, and only when it changed."""

    def __init__(self, write: Callable[[Json], Awaitable[None]]) -> None:
        self._write = write
        self._wanted: Json = {}
        self._pending = asyncio.Event()
        self._written = asyncio.Event()

    @property
    def wanted(self) -> Json:
        """The status that was given last."""
        return self._wanted

    def submit(self, status: Json) -> None:
        """Replaces the status to write."""
        if status != self._wanted:
            self._wanted = status
            self._written.clear()
            self._pending.set()

    async def flushed(self) -> None:
        """Waits until the newest status is written, or refused for good."""
        await self._written.wait()

    async def run(self) -> None:
        """Writes for ever."""
        pauses = Pauses()
        while True:
            await self._pending.wait()
            status = self._wanted
            try:
                await self._write(status)
            except ApiError as error:
                if error.transient:
                    log.info("Will write a status again: %s", error)
                    await pauses.pause()
                    continue
                if error.status != 404:
                    log.error("A status was refused: %s", error)
            pauses.reset()
            if status is self._wanted:
                self._pending.clear()
                self._written.set()


class PodRunner:
    """One Pod. `run` is its life; the other methods tell it what happened outside."""

    def __init__(
        self,
        pod: PodSpec,
        api: ApiServer,
        addresses: AddressPool,
        home: Path,
        surroundings: Surroundings,
    ) -> None:
        self.pod = pod
        self._api = api
        self._addresses = addresses
        self._home = home
        self._around = surroundings
        self._writer = StatusWriter(self._write_status)
        self._containers: list[ContainerRunner] = []
        self._started_at = datetime.now(UTC)
        self._address = ""
        self._deleting = False
        self._leaving = False
        self._end: PodEnd | None = None
        self._over = asyncio.Event()
        self._stop_grace_seconds: float | None = None

    def delete(self, grace_seconds: float) -> None:
        """The Pod is being deleted: end it within the time given, then remove its object."""
        self._deleting = True
        self._stop(grace_seconds)
        self._submit()

    def vanish(self) -> None:
        """The Pod's object is gone: end its processes at once."""
        self._deleting = False
        self._stop(0)

    def shut_down(self, grace_seconds: float) -> None:
        """The node is leaving: end the Pod and say so in its status."""
        self._leaving = True
        if self._writer.wanted.get("phase") not in ("Succeeded", "Failed"):
            self._end = NODE_SHUTDOWN
        self._stop(min(grace_seconds, self.pod.grace_period_seconds))

    async def run(self) -> None:
        """Runs the Pod. Afterwards nothing of it is left on this host.

        Raises:
            OSError: there is no address or no folder for it.
        """
        self._address = self._addresses.claim()
        try:
            self._home.mkdir(mode=0o700)
            self._containers = [
                ContainerRunner(
                    self.pod, each, self._address, self._home, self._around, self._submit
                )
                for each in self.pod.containers
            ]
            if self._stop_grace_seconds is not None:
                self._stop(self._stop_grace_seconds)
            await self._run_containers()
        finally:
            await asyncio.to_thread(shutil.rmtree, self._home, ignore_errors=True)
            logs.forget(self._around.logs_root, self.pod)
            self._addresses.release(self._address)

    async def _run_containers(self) -> None:
        writing = asyncio.create_task(self._writer.run())
        try:
            self._submit()
            async with asyncio.TaskGroup() as group:
                for container in self._containers:
                    group.create_task(container.run())
            await self._over.wait()
            self._submit(over=True)
            async with asyncio.timeout(_LAST_WRITE_SECONDS if self._leaving else None):
                await self._writer.flushed()
                if self._deleting:
                    await delete_pod(self._api, self.pod)
        except TimeoutError:
            log.warning("Could not tell the API server how pod %s ended", self.pod.name)
        finally:
            writing.cancel()

    def _stop(self, grace_seconds: float) -> None:
        self._stop_grace_seconds = grace_seconds
        for container in self._containers:
            container.stop(grace_seconds)
        self._over.set()

    def _submit(self, *, over: bool = False) -> None:
        if not self._containers:
            return
        self._writer.submit(
            pod_status(
                self.pod,
                {
                    spec.name: runner.record
                    for spec, runner in zip(self.pod.containers, self._containers, strict=True)
                },
                address=self._address,
                started_at=self._started_at,
                now=datetime.now(UTC),
                previous_conditions=self._writer.wanted.get("conditions", ()),
                stopping=self._deleting or self._end is not None,
                over=over,
                end=self._end if over else None,
            )
        )

    async def _write_status(self, status: Json) -> None:
        await write_status(self._api, self.pod, status)


async def write_status(api: ApiServer, pod: PodSpec, status: Json) -> None:
    """Changes the status of exactly this Pod, not of another one that has its name.

    Raises:
        ApiError: it cannot be written now (`transient`), or ever.
    """
    body = {"metadata": {"uid": pod.uid}, "status": status}
    path = pod_path(pod.namespace, pod.name, "status")
    await api.patch(path, body, STRATEGIC_MERGE_PATCH)


async def delete_pod(api: ApiServer, pod: PodSpec) -> None:
    """Removes the object of a Pod whose processes have ended, through outages."""
    body = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod.uid}}

    async def attempt() -> None:
        try:
            await api.delete(pod_path(pod.namespace, pod.name), body)
        except ApiError as error:
            # The name belongs to another Pod now.
            if error.status != 409:
                raise

    await persist(f"delete pod {pod.namespace}/{pod.name}", attempt)
