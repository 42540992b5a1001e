"""HAProxy as a child process: start, runtime commands, last words, end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import shutil
import signal
from collections import deque

from slm_worker.replicas.parent import die_with_parent
from slm_worker.routing.config import CONFIG_FILE, STATS_SOCKET, RouterSettings, render

logger = logging.getLogger(__name__)

MINIMUM_VERSION = (2, 6)
_MINIMUM = ".".join(map(str, MINIMUM_VERSION))
COMMAND_TIMEOUT_SECONDS = 5.0
_START_TIMEOUT_SECONDS = 15.0
STOP_TIMEOUT_SECONDS = 5.0
_KEPT_LINES = 20


class RouterError(Exception):
    """HAProxy cannot be started or refused a command. The message says what to do."""


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
    async def start(cls, settings: RouterSettings) -> HaproxyProcess:
        """Write the configuration, start, and wait until every address is bound.

        Raises :class:`RouterError` when the port is taken or HAProxy refuses its configuration.
        """
        config = settings.run_dir / CONFIG_FILE
        config.unlink(missing_ok=True)
        config.touch(mode=0o600)
        config.write_text(render(settings))
        process = await asyncio.create_subprocess_exec(
            *die_with_parent(),
            "haproxy",
            "-db",
            "-f",
            str(config),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            process_group=0,
        )
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

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    def last_words(self) -> str:
        return " | ".join(self._stderr) or "it wrote nothing"

    async def end(self) -> None:
        """End it at once, whether it runs or not."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        await self._reader

    async def command(self, line: str) -> str:
        """The runtime API's answer to one line. Raises :class:`RouterError` without one."""
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
            raise RouterError(f"HAProxy did not answer {line!r}: {error!r}") from error

    async def _until_listening(self) -> None:
        """It answers on its stats socket only after every address is bound."""
        while self.alive:
            with contextlib.suppress(RouterError):
                await self.command("show version")
                return
            await asyncio.sleep(0.02)
        await self._reader
        words = self.last_words()
        where = f"{self._settings.address}:{self._settings.port}"
        if "Address already in use" in words:
            raise RouterError(
                f"port taken: another process listens on {where}; stop it or choose another port"
            )
        if "annot assign requested address" in words:
            raise RouterError(
                f"address {where} is not one of this host's: give the pod's own address"
            )
        raise RouterError(f"HAProxy did not start on {where}; it says: {words}")

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
