"""HAProxy as a child process: start, runtime commands, last words, end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import shutil
import signal
import socket
from collections import deque

from slm_worker.replicas.parent import die_with_parent
from slm_worker.routing.config import (
    CONFIG_FILE,
    ROUTING_MAP,
    STATS_SOCKET,
    RouterSettings,
    render,
    render_map,
)
from slm_worker.routing.listener import RouterError
from slm_worker.wire import Routing

logger = logging.getLogger(__name__)

MINIMUM_VERSION = (2, 6)
_MINIMUM = ".".join(map(str, MINIMUM_VERSION))
COMMAND_TIMEOUT_SECONDS = 2.0
_START_TIMEOUT_SECONDS = 15.0
FINISH_TIMEOUT_SECONDS = 5.0
"""For the rare request that came between the look that saw none and the signal."""
_KEPT_LINES = 20


class HaproxyProcess:
    """One running HAProxy in the foreground and in a process group of its own."""

    def __init__(
        self, settings: RouterSettings, process: asyncio.subprocess.Process, stderr: deque[str]
    ) -> None:
        self._settings = settings
        self._process = process
        self._stderr = stderr
        self._reader = asyncio.create_task(self._read_stderr())

    @classmethod
    async def start(
        cls,
        settings: RouterSettings,
        routing: Routing,
        listener: socket.socket,
        *,
        keeps_connections: bool = True,
    ) -> HaproxyProcess:
        """Write the configuration, start, and wait until it answers commands.

        Raises :class:`RouterError` when HAProxy refuses its configuration, and when there is no
        room for its files or the process.
        """
        try:
            process = await cls._spawn(settings, routing, listener, keeps_connections)
        except OSError as error:
            raise RouterError(
                f"HAProxy cannot be started: {error}; check the room in TMPDIR and the limit of "
                "open files"
            ) from error
        haproxy = cls(settings, process, deque(maxlen=_KEPT_LINES))
        try:
            async with asyncio.timeout(_START_TIMEOUT_SECONDS):
                await haproxy._until_listening()
        except TimeoutError as error:
            await haproxy.end()
            raise RouterError(
                f"HAProxy did not start within {_START_TIMEOUT_SECONDS:g} s: {haproxy.last_words()}"
            ) from error
        except BaseException:
            await haproxy.end()
            raise
        return haproxy

    @staticmethod
    async def _spawn(
        settings: RouterSettings, routing: Routing, listener: socket.socket, keeps_connections: bool
    ) -> asyncio.subprocess.Process:
        """Raises OSError."""
        config = settings.run_dir / CONFIG_FILE
        for path, text in (
            (config, render(settings, routing, listener.fileno())),
            (
                settings.run_dir / ROUTING_MAP,
                render_map(routing, keeps_connections=keeps_connections),
            ),
        ):
            path.unlink(missing_ok=True)
            path.touch(mode=0o600)
            path.write_text(text)
        # Whoever listened there before shall not be taken for the one that starts.
        (settings.run_dir / STATS_SOCKET).unlink(missing_ok=True)
        return await asyncio.create_subprocess_exec(
            *die_with_parent(),
            "haproxy",
            "-db",
            "-f",
            str(config),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            process_group=0,
            pass_fds=(listener.fileno(),),
        )

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    def last_words(self) -> str:
        return " | ".join(self._stderr) or "it wrote nothing"

    async def end(self) -> None:
        """End it at once, whether it runs or not; it keeps nothing that a kill could spoil."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        await self._reader

    async def finish(self, seconds: float = FINISH_TIMEOUT_SECONDS) -> bool:
        """Accept nothing more, finish what is there for so long at most, and end. Connections that
        wait for nothing are closed at once. Answers whether nothing was cut."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError, TimeoutError):
                self._process.send_signal(signal.SIGUSR1)
                async with asyncio.timeout(seconds):
                    await self._process.wait()
        finished = not self.alive
        await self.end()
        return finished

    async def command(self, line: str) -> str:
        """The runtime API's answer to one line of commands. Raises :class:`RouterError`."""
        if not self.alive:
            raise RouterError(f"HAProxy does not run: {self.last_words()}")
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_SECONDS):
                reader, writer = await asyncio.open_unix_connection(
                    self._settings.run_dir / STATS_SOCKET
                )
                try:
                    writer.write(line.encode() + b"\n")
                    return (await reader.read(-1)).decode()
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            raise RouterError(f"HAProxy did not answer {line[:200]!r}: {error!r}") from error

    async def _until_listening(self) -> None:
        """It answers on its stats socket only after every address is bound."""
        while self.alive:
            with contextlib.suppress(RouterError):
                await self.command("show version")
                return
            await asyncio.sleep(0.02)
        await self._reader
        raise RouterError(f"HAProxy did not start; it says: {self.last_words()}")

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None  # noqa: S101 - it is a pipe
        async for line in self._process.stderr:
            text = line.decode(errors="replace").rstrip()
            self._stderr.append(text)
            logger.info("haproxy: %s", text)


async def check_version() -> None:
    """Raises :class:`RouterError` unless a new enough HAProxy is on PATH."""
    if shutil.which("haproxy") is None:
        raise RouterError(
            f"haproxy is not installed: install the haproxy package, version {_MINIMUM} or newer"
        )
    process = await asyncio.create_subprocess_exec(
        "haproxy", "-v", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    text = output.decode(errors="replace")
    found = re.search(r"version (\d+)\.(\d+)", text)
    if found is None:
        raise RouterError(f"haproxy -v does not name its version, it says: {text[:200]!r}")
    if (int(found[1]), int(found[2])) < MINIMUM_VERSION:
        raise RouterError(
            f"haproxy {found[1]}.{found[2]} is too old: install version {_MINIMUM} or newer"
        )
