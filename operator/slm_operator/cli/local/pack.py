"""A pack on this host: the real agent as a process, with its router and engines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp

from slm_operator.cli.local.host import ADDRESS, Ports, search_path
from slm_operator.cli.local.request import LocalError
from slm_operator.cluster.agents import Agents
from slm_operator.cluster.pods import last_words
from slm_operator.keys import Tokens
from slm_operator.render.children import TERMINATION_GRACE_SECONDS
from slm_worker.wire import (
    ADDRESS_VARIABLE,
    AGENT_PORT_VARIABLE,
    CONFIG_VARIABLE,
    ROUTER_PORT_VARIABLE,
    TOKEN_FILE_VARIABLE,
    PackConfig,
    PackState,
    Plan,
)

FOLDER_PREFIX = "slm-local-"
TAIL_BYTES = 16_384
LOG_LINES = 15
LEFT_SECONDS = 10.0
"""For what outlived the agent to end by itself before it is killed."""
LOOK_SECONDS = 0.1


class LocalPack:
    """An asynchronous context manager. On exit agent, router and engines have ended, and their
    files are gone."""

    def __init__(self, config: PackConfig, ports: Ports) -> None:
        self.url = f"http://{ADDRESS}:{ports.router}"
        """Of the router: OpenAI's API."""
        self.log: Path
        """What agent and engines write, a JSON object a line."""
        self._config = config
        self._ports = ports
        self._token = secrets.token_hex(16)
        self._process: asyncio.subprocess.Process

    async def __aenter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
        self.log = self._folder / "agent.log"
        self._session = aiohttp.ClientSession()
        self._agents = Agents(self._session, self._ports.agent)
        try:
            with self.log.open("wb") as output:
                self._process = await asyncio.create_subprocess_exec(
                    *_end_with_us(),
                    *(sys.executable, "-m", "slm_worker"),
                    env=self._environment(),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    # A terminal's Ctrl-C is for slmctl, which ends the agent in its own time.
                    start_new_session=True,
                )
        except BaseException:
            await self._clean_up()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            async with asyncio.timeout(TERMINATION_GRACE_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        finally:
            await self._clean_up()

    async def state(self) -> PackState:
        """Raises AgentError."""
        return await self._agents.state(ADDRESS, Tokens(self._token))

    async def put_plan(self, plan: Plan) -> None:
        """Raises AgentError."""
        await self._agents.put_plan(ADDRESS, Tokens(self._token), plan)

    def check(self) -> None:
        """Raises LocalError when the agent has ended."""
        code = self._process.returncode
        if code is None:
            return
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        said = last_words(self._tail())
        cause = said or "start it again; if it repeats, see its log"
        raise LocalError(f"the pack's agent ended {how}: {cause}", self.log_end())

    def log_end(self) -> str:
        """The last lines of the log, for a person."""
        return "\n".join(map(readable, self._tail().splitlines()[-LOG_LINES:]))

    def _tail(self) -> str:
        return self.log.read_bytes()[-TAIL_BYTES:].decode(errors="replace")

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": search_path(),
            "TMPDIR": str(self._folder),
            CONFIG_VARIABLE: self._config.model_dump_json(),
            TOKEN_FILE_VARIABLE: str(self._token_file()),
            ADDRESS_VARIABLE: ADDRESS,
            AGENT_PORT_VARIABLE: str(self._ports.agent),
            ROUTER_PORT_VARIABLE: str(self._ports.router),
        }

    def _token_file(self) -> Path:
        """For nobody else on this host to read."""
        path = self._folder / "token"
        path.touch(mode=0o600)
        path.write_text(self._token)
        return path

    async def _clean_up(self) -> None:
        await self._session.close()
        await asyncio.to_thread(_end_what_is_left, self._folder)
        shutil.rmtree(self._folder, ignore_errors=True)


def readable(line: str) -> str:
    """A line of an agent's log without what only machines read."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        entry = json.loads(line)
        replica = f" replica {entry['replica']}:" if "replica" in entry else ""
        return f"{entry['time'][11:19]} {entry['level']}:{replica} {entry['message']}"
    return line


def _end_with_us() -> tuple[str, ...]:
    """What to put before the command: where util-linux is there, the kernel then ends the agent in
    good order when slmctl is killed."""
    return ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()


def _end_what_is_left(folder: Path) -> None:
    """Ends what an agent that was killed left, known by its temporary folder."""
    began = time.monotonic()
    while (left := _processes_with(folder)) and time.monotonic() - began < 2 * LEFT_SECONDS:
        number = signal.SIGTERM if time.monotonic() - began < LEFT_SECONDS else signal.SIGKILL
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(LOOK_SECONDS)


def _processes_with(folder: Path) -> list[int]:
    """This user's living processes whose environment names ``folder``."""
    mark = os.fsencode(folder)
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found
