"""Starts containers' processes through shims, one shim each."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slm_dev.local_node import shim

MARKER_VARIABLE = "SLM_LOCAL_CONTAINER"
"""Is in the environment of all processes of a container: UID of the Pod, container, attempt."""

LOG_LIMIT_BYTES = 5 * 1024 * 1024


class StartError(Exception):
    """A main process could not be started."""


@dataclass(frozen=True)
class Launch:
    """What to start. `log` None throws the output away."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    working_dir: str
    marker: str
    log: Path | None = None


@dataclass(frozen=True)
class Exit:
    """How a main process ended; `code` is 128 + signal if a signal ended it."""

    code: int
    signal: int = 0


class ContainerProcess:
    """A running main process with all its descendants."""

    def __init__(self, shim_process: asyncio.subprocess.Process, marker: str, pid: int) -> None:
        self._shim = shim_process
        self._marker = marker
        self.pid = pid
        self._exit = asyncio.ensure_future(self._read_exit())

    @classmethod
    async def start(cls, launch: Launch) -> "ContainerProcess":
        """Starts a main process.

        Raises:
            StartError: its program cannot be executed in its working folder.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            shim.__file__,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={},
            # A terminal's Ctrl-C is for the node, which then ends its Pods in order.
            start_new_session=True,
        )
        assert process.stdin is not None and process.stdout is not None  # noqa: S101
        request = {
            "argv": launch.argv,
            "env": {**launch.env, MARKER_VARIABLE: launch.marker},
            "cwd": launch.working_dir,
            "log": str(launch.log) if launch.log else None,
            "log_bytes": LOG_LIMIT_BYTES,
        }
        process.stdin.write(json.dumps(request).encode() + b"\n")
        try:
            line = await process.stdout.readline()
        except asyncio.CancelledError:
            # The shim ends what it may have started.
            process.stdin.close()
            await process.wait()
            raise
        answer = json.loads(line or '{"failed": "its shim ended"}')
        if "failed" in answer:
            process.stdin.close()
            await process.wait()
            raise StartError(answer["failed"])
        return cls(process, launch.marker, answer["started"])

    def terminate(self) -> None:
        """Sends SIGTERM to the main process alone."""
        self._command(b"TERM\n")

    def kill(self) -> None:
        """Sends SIGKILL to every process of the container."""
        self._command(b"KILL\n")

    async def wait(self) -> Exit:
        """Waits until the main process and all its descendants have ended."""
        return await asyncio.shield(self._exit)

    def _command(self, line: bytes) -> None:
        if not self._exit.done() and self._shim.stdin is not None:
            self._shim.stdin.write(line)

    async def _read_exit(self) -> Exit:
        assert self._shim.stdout is not None and self._shim.stdin is not None  # noqa: S101
        line = await self._shim.stdout.readline()
        self._shim.stdin.close()
        await self._shim.wait()
        if not line:
            # Somebody killed the shim. The kernel then killed the main process, but no other.
            kill_marked(self._marker)
            return Exit(128 + signal.SIGKILL, int(signal.SIGKILL))
        answer = json.loads(line)
        if "signal" in answer:
            return Exit(128 + answer["signal"], answer["signal"])
        return Exit(answer["code"])


async def run_to_end(launch: Launch, timeout_seconds: float) -> bool:
    """Runs a command in a container's environment; whether it ended in time with exit code 0."""
    try:
        process = await ContainerProcess.start(launch)
    except StartError:
        return False
    try:
        async with asyncio.timeout(timeout_seconds):
            return (await process.wait()).code == 0
    except TimeoutError:
        return False
    finally:
        process.kill()
        await process.wait()


def kill_marked(marker: str) -> None:
    """Kills every process of this user that has the marker in its environment."""
    wanted = f"{MARKER_VARIABLE}={marker}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)
