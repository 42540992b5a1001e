"""One engine process with all its descendants: start, bounded log tail, end without leftovers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

from slm_worker.engine.base import EngineCommand
from slm_worker.replicas.parent import die_with_parent

LOG_TAIL_BYTES = 64 * 1024
MAX_LOG_LINE_BYTES = 8 * 1024
TERMINATE_GRACE_SECONDS = 10.0
"""After the first SIGTERM: the router has drained the process, so little is left to finish."""
SECOND_TERMINATE_GRACE_SECONDS = 5.0
OUTPUT_END_SECONDS = 2.0
"""How long to wait for the rest of the output of processes that are gone."""
GROUP_END_SECONDS = 5.0
GROUP_POLL_SECONDS = 0.02

_READ_BYTES = 64 * 1024
_SECRET_PREFIX = "SLM_"  # noqa: S105 - a prefix of names
_SERVICE_LINK_PREFIX = "tcp://"

log = logging.getLogger("slm_worker.engine")


def engine_environment(
    agent: Mapping[str, str], command: EngineCommand, device: Mapping[str, str], tmpdir: Path
) -> dict[str, str]:
    """What an engine process inherits: not the agent's own settings and token, and none of the
    variables that Kubernetes sets for Services (VLLM_PORT=tcp://... would stop vLLM)."""
    inherited = {
        name: value
        for name, value in agent.items()
        if not name.startswith(_SECRET_PREFIX) and not value.startswith(_SERVICE_LINK_PREFIX)
    }
    return inherited | command.env | dict(device) | {"TMPDIR": str(tmpdir)}


class EngineProcess:
    """Made by :meth:`start`; leads a process group of its own, which :meth:`stop` ends."""

    def __init__(self, process: asyncio.subprocess.Process, output: _Output, tmpdir: Path) -> None:
        self._process = process
        self._output = output
        self._tmpdir = tmpdir
        self._gone = False

    @classmethod
    async def start(
        cls, name: str, argv: tuple[str, ...], env: Mapping[str, str], tmpdir: Path
    ) -> EngineProcess:
        """Raises OSError when the program cannot be started. ``tmpdir`` is made and owned."""
        if shutil.which(argv[0], path=env.get("PATH")) is None:
            raise FileNotFoundError(f"no program {argv[0]}")
        await asyncio.to_thread(tmpdir.mkdir, mode=0o700)
        reading, writing = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *die_with_parent(),
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                env=dict(env),
                start_new_session=True,
            )
        except BaseException:
            os.close(reading)
            shutil.rmtree(tmpdir, ignore_errors=True)
            raise
        finally:
            os.close(writing)
        return cls(process, await _Output.follow(name, reading), tmpdir)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    @property
    def log_tail(self) -> str:
        return self._output.tail

    async def wait(self) -> int:
        """The exit status of the leader; descendants may outlive it until :meth:`stop`."""
        return await self._process.wait()

    async def stop(self) -> None:
        """SIGTERM, a second SIGTERM, and in any case SIGKILL for the whole group."""
        for grace_seconds in (TERMINATE_GRACE_SECONDS, SECOND_TERMINATE_GRACE_SECONDS):
            if self.returncode is not None:
                break
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_seconds):
                    await self._process.wait()
        await self.kill()

    async def kill(self) -> None:
        """SIGKILL for the whole group, and removal of what it left behind. May be repeated."""
        if self._gone:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        await self._process.wait()
        await _group_end(self.pid)
        self._gone = True
        await self._output.end()
        await asyncio.to_thread(shutil.rmtree, self._tmpdir, ignore_errors=True)


async def _group_end(group: int) -> None:
    """Waits until the killed group's last process is gone, and its memory with it."""
    with contextlib.suppress(TimeoutError, ProcessLookupError):
        async with asyncio.timeout(GROUP_END_SECONDS):
            while True:
                # As first process of a container the agent inherits the orphans.
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(-group, os.WNOHANG)  # noqa: ASYNC222 - does not wait
                os.killpg(group, 0)
                await asyncio.sleep(GROUP_POLL_SECONDS)


class _Output:
    """Follows a pipe: every line goes to the agent's log, the last ones are kept."""

    def __init__(self, name: str, transport: asyncio.ReadTransport, reader: asyncio.StreamReader):
        self._name = name
        self._transport = transport
        self._reader = reader
        self._tail = bytearray()
        self._task = asyncio.create_task(self._follow(), name=f"output of {name}")

    @classmethod
    async def follow(cls, name: str, descriptor: int) -> _Output:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
        )
        return cls(name, transport, reader)

    @property
    def tail(self) -> str:
        return self._tail.decode(errors="replace")

    async def end(self) -> None:
        # Somebody outside the group may still hold the pipe: then its words are not waited for.
        await asyncio.wait([self._task], timeout=OUTPUT_END_SECONDS)
        self._task.cancel()
        await asyncio.wait([self._task])
        self._transport.close()

    async def _follow(self) -> None:
        line = bytearray()
        while chunk := await self._reader.read(_READ_BYTES):
            self._tail += chunk
            del self._tail[:-LOG_TAIL_BYTES]
            line += chunk
            *whole, rest = bytes(line).split(b"\n")
            for one in whole:
                self._log(one)
            line = bytearray(rest)
            if len(line) > MAX_LOG_LINE_BYTES:
                self._log(bytes(line))
                line.clear()
        if line:
            self._log(bytes(line))

    def _log(self, line: bytes) -> None:
        text = line[:MAX_LOG_LINE_BYTES].decode(errors="replace").rstrip()
        if text:
            log.info("%s", text, extra={"replica": self._name})
