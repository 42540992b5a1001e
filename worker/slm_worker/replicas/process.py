"""One engine process with all its descendants: started, and ended without leftovers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path

import psutil

from slm_worker.replicas.leftovers import group_members, sweep_shared_memory
from slm_worker.replicas.output import Output
from slm_worker.replicas.parent import die_with_parent

TERMINATE_GRACE_SECONDS = 10.0
"""After the first SIGTERM: the router has drained the process, so little is left to finish."""
SECOND_TERMINATE_GRACE_SECONDS = 5.0
GROUP_END_SECONDS = 5.0
GROUP_POLL_SECONDS = 0.02

Release = Callable[[Collection[int]], Awaitable[None]]
"""Ends these processes' hold on the device, before they are killed. Never raises."""


class EngineProcess:
    """Made by :meth:`start`; leads a process group of its own, which :meth:`stop` ends."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        output: Output,
        tmpdir: Path,
        release: Release,
    ) -> None:
        self._process = process
        self._output = output
        self._tmpdir = tmpdir
        self._release = release
        self._gone = False

    @classmethod
    async def start(
        cls,
        replica: int,
        argv: tuple[str, ...],
        env: Mapping[str, str],
        tmpdir: Path,
        *,
        heard: Callable[[str], None],
        release: Release,
    ) -> EngineProcess:
        """Raises OSError when the program cannot be started. ``tmpdir`` is made and owned;
        ``heard`` gets what the process writes, line by line."""
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
        try:
            output = await Output.follow(replica, reading, heard)
        except BaseException:
            await _end_at_once(process, tmpdir)
            raise
        return cls(process, output, tmpdir, release)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def cpu_seconds(self) -> float | None:
        """Processor time of the leader alone, which is the engine's server; None once it ended."""
        try:
            times = psutil.Process(self.pid).cpu_times()
        except psutil.Error:
            return None
        return times.user + times.system

    @property
    def log_tail(self) -> str:
        return self._output.tail

    def take_log(self) -> str:
        """The log's tail, which begins anew."""
        return self._output.take()

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
        """SIGKILL for the whole group once the device has let go of it, and removal of what it
        left behind. May be repeated."""
        if self._gone:
            return
        members = await asyncio.to_thread(group_members, self.pid)
        if members:
            await self._release(members)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        await self._process.wait()
        await _group_end(self.pid)
        self._gone = True
        await self._output.end()
        await asyncio.to_thread(shutil.rmtree, self._tmpdir, ignore_errors=True)
        await sweep_shared_memory()


async def _end_at_once(process: asyncio.subprocess.Process, tmpdir: Path) -> None:
    """One that nobody knows yet: it has no hold on the device."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    shutil.rmtree(tmpdir, ignore_errors=True)


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
