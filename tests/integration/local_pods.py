"""Pods for the tests of the local node, and what to expect of them."""

import asyncio
import contextlib
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm_dev.local_node.api import ApiError, ApiServer, pod_path
from slm_dev.local_node.process import MARKER_VARIABLE

WAIT_SECONDS = 120.0
IMAGE = "test-image"
PROGRAMS = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
GPU = "nvidia.com/gpu"
# Two descendants that a plain signal to the process or its group would miss.
HIDES_CHILDREN = "setsid sleep 3000 & setsid sh -c 'setsid sleep 3001 & exit 0'; "

Pod = dict[str, Any]


def pod(name: str, script: str = "exec sleep 3600", **container: Any) -> Pod:
    """A Pod with one shell script, which a node stops without delay; more fields in `container`."""
    main = {"name": "main", "image": IMAGE, "command": ["sh", "-c", script], **container}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [main], "terminationGracePeriodSeconds": 1},
    }


def with_gpu(name: str) -> Pod:
    return pod(name, resources={"limits": {GPU: "1"}})


def container(found: Pod) -> dict[str, Any]:
    status: dict[str, Any] = found["status"]["containerStatuses"][0]
    return status


def running(found: Pod) -> bool:
    return bool(found["status"].get("containerStatuses")) and "running" in container(found)["state"]


def waits_because(reason: str) -> Callable[[Pod], bool]:
    def waits(found: Pod) -> bool:
        statuses = found["status"].get("containerStatuses")
        return bool(statuses) and statuses[0]["state"].get("waiting", {}).get("reason") == reason

    return waits


def condition(found: Pod, kind: str) -> dict[str, Any]:
    conditions = found["status"].get("conditions") or []
    return next((each for each in conditions if each["type"] == kind), {})


def ready(found: Pod) -> bool:
    return condition(found, "Ready").get("status") == "True"


def marked_processes(uid: str) -> list[int]:
    """The processes, zombies aside, of any container of a Pod."""
    wanted = f"{MARKER_VARIABLE}={uid}/".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if any(each.startswith(wanted) for each in environment(int(entry.name))):
                    found.append(int(entry.name))
    return found


def environment(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


async def until(what: str, check: Callable[[], bool | Awaitable[bool]]) -> None:
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                result = check()
                if result if isinstance(result, bool) else await result:
                    return
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not within {WAIT_SECONDS:g} s: {what}") from None


@dataclass
class Cluster:
    """The Pods of one namespace, as an administrator sees them."""

    api: ApiServer
    namespace: str

    async def create(self, body: Pod, plural: str = "pods") -> Pod:
        return await self.api.post(f"/api/v1/namespaces/{self.namespace}/{plural}", body)

    async def get(self, name: str) -> Pod:
        return await self.api.get(pod_path(self.namespace, name))

    async def delete(self, name: str, grace_seconds: int | None = None) -> None:
        options = {} if grace_seconds is None else {"gracePeriodSeconds": grace_seconds}
        await self.api.delete(pod_path(self.namespace, name), options)

    async def until(self, name: str, check: Callable[[Pod], bool]) -> Pod:
        """Waits until a Pod is as wanted, through outages, and returns it."""
        found: Pod = {}

        async def checked() -> bool:
            nonlocal found
            try:
                found = await self.get(name)
            except ApiError as error:
                if error.status:
                    raise
                return False
            return check(found)

        try:
            await until(f"pod {name} as wanted", checked)
        except AssertionError as error:
            raise AssertionError(f"{error}: {json.dumps(found.get('status'))}") from None
        return found

    async def until_gone(self, name: str) -> None:
        async def gone() -> bool:
            try:
                await self.get(name)
            except ApiError as error:
                return error.status == 404
            return False

        await until(f"pod {name} is gone", gone)
