"""Runs one container of a Pod: starts, probes, restarts and stops its processes."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from slm_dev.local_node import logs, mounts
from slm_dev.local_node.api import ApiError
from slm_dev.local_node.backoff import RestartBackoff
from slm_dev.local_node.environment import (
    ConfigError,
    LocalImage,
    Objects,
    find_image,
    referenced_objects,
    render_command,
    render_environment,
)
from slm_dev.local_node.prober import Health, Prober
from slm_dev.local_node.process import ContainerProcess, Exit, Launch, StartError, run_to_end
from slm_dev.local_node.spec import ContainerSpec, ObjectKind, PodSpec
from slm_dev.local_node.status import ContainerRecord, Running, Terminated, Waiting
from slm_dev.local_node.stopping import StopRequest

ReadObject = Callable[[ObjectKind, str, str], Awaitable[Mapping[str, str] | None]]
"""Kind, namespace and name to the data of a Secret or ConfigMap, None if there is none."""

# A node may read a Pod's objects only a moment after the Pod is bound to it.
_FIRST_RETRY_SECONDS = 0.1
_CREATING = Waiting("ContainerCreating")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """Durations in seconds. The two of the restart backoff are the kubelet's."""

    restart_backoff_seconds: float = 10
    restart_backoff_cap_seconds: float = 300
    config_retry_seconds: float = 2
    mount_refresh_seconds: float = 2
    """The kubelet takes a minute and more."""
    shutdown_grace_seconds: float = 10


@dataclass(frozen=True)
class Surroundings:
    """What a container finds around it."""

    images: Mapping[str, LocalImage]
    read_object: ReadObject
    timing: Timing
    logs_root: Path


class ContainerRunner:
    """One container from the Pod's start to its end.

    `on_change` is called after each change of `record`.
    """

    def __init__(
        self,
        pod: PodSpec,
        container: ContainerSpec,
        address: str,
        home: Path,
        surroundings: Surroundings,
        on_change: Callable[[], None],
    ) -> None:
        self._pod = pod
        self._container = container
        self._address = address
        self._home = home
        self._around = surroundings
        self._on_change = on_change
        self._pod_stop = StopRequest()
        self._attempt_stop: StopRequest | None = None
        self.record = ContainerRecord(_CREATING)

    def stop(self, grace_seconds: float) -> None:
        """Asks the container to end for good; again with less time, if that is called for."""
        self._pod_stop.request(grace_seconds)
        if self._attempt_stop is not None:
            self._attempt_stop.request(grace_seconds)

    async def run(self) -> None:
        """Runs attempt after attempt, until the restart policy or `stop` says that is all."""
        timing = self._around.timing
        backoff = RestartBackoff(timing.restart_backoff_seconds, timing.restart_backoff_cap_seconds)
        try:
            while (launch := await self._prepared_launch()) is not None:
                end = await self._attempt(launch)
                self._update(state=end, started=False, ready=False)
                if self._pod_stop.requested.is_set() or not self._restarts_after(end):
                    return
                ran_seconds = (end.finished_at - end.started_at).total_seconds()
                await self._back_off(backoff.wait_seconds(ran_seconds), end)
                backoff = backoff.after_run(ran_seconds)
                if self._pod_stop.requested.is_set():
                    return
                self._update(
                    state=_CREATING, last=end, restarts=self.record.restarts + 1, container_id=""
                )
        finally:
            self._pod_stop.dispose()

    def _update(self, **changes: object) -> None:
        updated = replace(self.record, **changes)  # type: ignore[arg-type]
        if updated != self.record:
            self.record = updated
            self._on_change()

    def _restarts_after(self, end: Terminated) -> bool:
        policy = self._pod.restart_policy
        return policy == "Always" or (policy == "OnFailure" and end.exit_code != 0)

    async def _back_off(self, seconds: float, end: Terminated) -> None:
        if seconds > 0:
            message = (
                f"back-off {seconds:g}s restarting failed container={self._container.name} "
                f"pod={self._pod.name}_{self._pod.namespace}({self._pod.uid})"
            )
            self._update(state=Waiting("CrashLoopBackOff", message), last=end)
            await self._sleep_unless_stopped(seconds)

    async def _sleep_unless_stopped(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._pod_stop.requested.wait()

    async def _prepared_launch(self) -> Launch | None:
        """What to start, waited for while its configuration is wrong; None when stopped."""
        pause_seconds = _FIRST_RETRY_SECONDS
        while not self._pod_stop.requested.is_set():
            try:
                return await self._launch()
            except ConfigError as error:
                self._update(state=Waiting(error.reason, error.message))
            await self._sleep_unless_stopped(pause_seconds)
            pause_seconds = min(2 * pause_seconds, self._around.timing.config_retry_seconds)
        return None

    async def _launch(self) -> Launch:
        pod, container = self._pod, self._container
        if pod.unsupported:
            raise ConfigError(
                "CreateContainerConfigError",
                f"the local node does not support {', '.join(pod.unsupported)}; "
                "remove it from the Pod or run the Pod on a real node",
            )
        image = find_image(container, self._around.images)
        variables = render_environment(pod, container, await self._objects(), self._address)
        await self._bring_secrets()
        attempt = self.record.restarts
        logs.forget_attempt(self._around.logs_root, pod, container.name, attempt - 2)
        return Launch(
            argv=render_command(container, variables),
            env={
                "HOSTNAME": pod.name,
                **image.env,
                **mounts.relocated(
                    variables,
                    {each.path: mounts.directory(self._home, each) for each in container.secrets},
                ),
                "HOME": str(self._home),
                "TMPDIR": str(self._home),
            },
            working_dir=container.working_dir or str(self._home),
            marker=f"{pod.uid}/{container.name}/{attempt}",
            log=logs.path(self._around.logs_root, pod, container.name, attempt),
        )

    async def _objects(self) -> Objects:
        referenced = sorted(referenced_objects(self._container))
        return {(kind, name): await self._read(kind, name) for kind, name in referenced}

    async def _read(self, kind: ObjectKind, name: str) -> Mapping[str, str] | None:
        try:
            return await self._around.read_object(kind, self._pod.namespace, name)
        except ApiError as error:
            raise ConfigError(
                "CreateContainerConfigError", f'cannot read {kind} "{name}": {error}'
            ) from error

    async def _bring_secrets(self) -> None:
        for mount in self._container.secrets:
            data = await self._read("secret", mount.object_name)
            mounts.write(mounts.directory(self._home, mount), mount.object_name, data)

    async def _keep_secrets(self) -> None:
        """What is mounted follows its Secret while the container runs; a deleted one stays."""
        while self._container.secrets:
            await asyncio.sleep(self._around.timing.mount_refresh_seconds)
            with contextlib.suppress(ConfigError):
                await self._bring_secrets()

    async def _attempt(self, launch: Launch) -> Terminated:
        started_at = datetime.now(UTC)
        try:
            process = await ContainerProcess.start(launch)
        except StartError as error:
            log.warning("Cannot start %s: %s", launch.marker, error)
            # The code that container runtimes give for this.
            return Terminated(
                128, started_at, datetime.now(UTC), message=str(error), start_failed=True
            )
        log.info("Started %s as process %d", launch.marker, process.pid)
        try:
            self._update(
                state=Running(started_at),
                started=self._container.startup is None,
                ready=False,
                container_id=f"local://{launch.marker.replace('/', '-')}",
            )
            end = await self._supervise(process, launch)
        finally:
            process.kill()
            await process.wait()
        log.info("%s ended with code %d", launch.marker, end.code)
        message = ""
        if end.code != 0 and self._container.log_is_last_message and launch.log is not None:
            message = await asyncio.to_thread(logs.last_message, launch.log)
        return Terminated(
            end.code, started_at, datetime.now(UTC), signal=end.signal, message=message
        )

    async def _supervise(self, process: ContainerProcess, launch: Launch) -> Exit:
        stop = self._attempt_stop = StopRequest()
        if self._pod_stop.requested.is_set():
            stop.request(self._pod_stop.remaining_seconds())
        try:
            async with asyncio.TaskGroup() as group:
                probing = group.create_task(self._stop_when_unhealthy(launch, stop))
                ending = group.create_task(self._end_when_stopped(process, launch, stop))
                keeping = group.create_task(self._keep_secrets())
                end = await process.wait()
                keeping.cancel()
                probing.cancel()
                ending.cancel()
        finally:
            self._attempt_stop = None
            stop.dispose()
        return end

    async def _stop_when_unhealthy(self, launch: Launch, stop: StopRequest) -> None:
        def note(health: Health) -> None:
            self._update(started=health.started, ready=health.ready)

        prober = Prober(self._container, launch, self._address, note)
        failed = await prober.run_until_unhealthy()
        log.warning("%s failed its probe %s and is restarted", launch.marker, failed.action)
        grace_seconds = failed.grace_period_seconds
        if grace_seconds is None:
            grace_seconds = self._pod.grace_period_seconds
        stop.request(grace_seconds)

    async def _end_when_stopped(
        self, process: ContainerProcess, launch: Launch, stop: StopRequest
    ) -> None:
        await stop.requested.wait()
        async with asyncio.TaskGroup() as group:
            hook = group.create_task(self._pre_stop(launch))
            expired = group.create_task(stop.expired.wait())
            await asyncio.wait({hook, expired}, return_when=asyncio.FIRST_COMPLETED)
            process.terminate()
            await expired
            process.kill()
            hook.cancel()

    async def _pre_stop(self, launch: Launch) -> None:
        if self._container.pre_stop:
            command = replace(launch, argv=self._container.pre_stop, log=None)
            if not await run_to_end(command, self._pod.grace_period_seconds):
                log.warning("The preStop hook of %s failed", launch.marker)
