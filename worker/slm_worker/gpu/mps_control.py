"""Speaks to the MPS control daemon through NVIDIA's control program, in either of its protocols.

Protocol 2 is asked for: every driver has it, and newer ones keep it unchanged. Where a driver no
longer takes it, protocol 3 does the same by other words.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slm_worker.gpu.mps_replies import (
    MpsServer,
    ReplyError,
    ServerState,
    UnknownCommandError,
    checked,
    csv_clients,
    csv_servers,
    pids,
    server_state,
)
from slm_worker.gpu.nvml_choice import DEVICE_ORDER

CONTROL = "nvidia-cuda-mps-control"
DRIVER_PROGRAMS = "/usr/local/nvidia/bin"
"""Where some platforms mount the driver's programs without putting them on PATH."""
OWNER_VARIABLE = "SLM_MPS_OWNER"
"""In the environment of daemon and servers: which agent they belong to."""
MAX_OUTPUT_CHARACTERS = 500
_CSV = "--format=csv,noheader"


class ControlError(Exception):
    """A command that the daemon did not carry out; the text says which and why."""


class ControlNotRunError(ControlError):
    """The command never got as far as the daemon, of which this says nothing."""


@dataclass(frozen=True)
class MpsDirectories:
    """Where a daemon has its pipes and its logs."""

    pipe: Path
    log: Path

    @property
    def environment(self) -> dict[str, str]:
        """What makes a CUDA process a client of this daemon, and a control program speak to it."""
        return {
            "CUDA_MPS_PIPE_DIRECTORY": str(self.pipe),
            "CUDA_MPS_LOG_DIRECTORY": str(self.log),
        }


class MpsControl:
    """Commands to one daemon. Each runs the control program once, and none blocks the loop.

    All methods raise ControlError, also when there is no answer within ``timeout_seconds``, and
    ControlNotRunError where this host cannot run the program now.
    """

    def __init__(
        self,
        directories: MpsDirectories,
        timeout_seconds: float,
        environ: Mapping[str, str] = os.environ,
        owner: str = "",
    ) -> None:
        self.missing: set[str] = set()
        """Commands that this release turned out not to have."""
        self._timeout_seconds = timeout_seconds
        self._protocol = 2
        self._path = f"{environ.get('PATH', os.defpath)}{os.pathsep}{DRIVER_PROGRAMS}"
        # Settings of another daemon would limit this one. With CUDA_VISIBLE_DEVICES the daemon
        # would number GPUs anew, and clients, which keep it, would look for numbers that are gone.
        # It numbers them as clients do that are told which of several is theirs.
        self._environ = {
            name: value
            for name, value in environ.items()
            if not name.startswith(("CUDA_MPS_", "SLM_")) and name != "CUDA_VISIBLE_DEVICES"
        } | {
            **directories.environment,
            **DEVICE_ORDER,
            "PATH": self._path,
            OWNER_VARIABLE: owner,
        }
        self._directories = directories

    @property
    def program(self) -> str | None:
        """The control program's path; None where it is not installed."""
        return shutil.which(CONTROL, path=self._path)

    async def start_daemon(self) -> None:
        """Starts the daemon in the background, under the first protocol that it takes."""
        self._protocol = 2
        try:
            await self._run(["-d"])
        except ControlError as error:
            if "protocol" not in str(error).lower():
                raise
            self._protocol = 3
            await self._run(["-d", "-p", "3"])

    async def start_server(self, uid: int) -> None:
        """Starts the server that otherwise the first client of this user would start."""
        if self._protocol == 2:
            await self._say(f"start_server -uid {uid}")
        else:
            await self._run(["server", "create", f"uid_{uid}", f"--uid={uid}"])

    async def servers(self) -> tuple[MpsServer, ...]:
        """All servers with their clients."""
        try:
            if self._protocol == 3:
                listed = csv_servers(await self._run(["server", "list", _CSV]))
                clients = csv_clients(await self._run(["client", "list", "--all", _CSV]))
                # One pack has one user, and so one server: the clients are its.
                return tuple(MpsServer(one.pid, one.state, clients) for one in listed)
            return tuple(
                [
                    MpsServer(pid, await self._state(pid), await self._clients(pid))
                    for pid in pids(await self._say("get_server_list"))
                ]
            )
        except ReplyError as error:
            raise ControlError(f"it was not understood: {_shortened(str(error))!r}") from None

    async def terminate_client(self, server_pid: int, client_pid: int) -> None:
        """Ends the client's work on the GPU; its process lives on with errors."""
        try:
            if self._protocol == 3:
                await self._run(["client", "terminate", str(client_pid)])
            elif "terminate_client" not in self.missing:
                checked(await self._say(f"terminate_client {server_pid} {client_pid}"))
        except UnknownCommandError:
            self.missing.add("terminate_client")

    async def quit(self, force_after_seconds: int | None = None) -> None:
        """Ends daemon and servers once the last client is gone, or whatever runs after a while."""
        if self._protocol == 3:
            await self._run(["-q"])
        elif force_after_seconds is None:
            await self._say("quit")
        else:
            await self._say(f"quit -t {force_after_seconds}", extra_seconds=force_after_seconds)

    async def _state(self, pid: int) -> ServerState:
        if "get_server_status" in self.missing:
            return "Unknown"
        try:
            return server_state(await self._say(f"get_server_status {pid}"))
        except UnknownCommandError:
            self.missing.add("get_server_status")
            return "Unknown"

    async def _clients(self, pid: int) -> tuple[int, ...]:
        if "get_client_list" in self.missing:
            return ()
        try:
            return pids(await self._say(f"get_client_list {pid}"))
        except UnknownCommandError:
            self.missing.add("get_client_list")
        except ReplyError:
            pass  # the server ended in between
        return ()

    async def _say(self, command: str, extra_seconds: float = 0.0) -> str:
        return await self._run([], f"{command}\n", extra_seconds)

    async def _run(self, arguments: list[str], said: str = "", extra_seconds: float = 0.0) -> str:
        """What the control program writes. Raises ControlError unless it ends well in time."""
        command = " ".join([*arguments, said.strip()]).strip()
        timeout_seconds = self._timeout_seconds + extra_seconds
        # The daemon outlives the program that starts it: a pipe it would keep open.
        output_path = self._directories.log / f"start-{os.getpid()}.out"
        starts = arguments[:1] == ["-d"]
        try:
            output = output_path.open("w+b") if starts else None
        except OSError as error:
            raise ControlError(f"{output_path} cannot be written ({error.strerror})") from None
        with contextlib.ExitStack() as stack:
            if output is not None:
                stack.enter_context(output)
            try:
                process = await asyncio.create_subprocess_exec(
                    self.program or CONTROL,
                    *arguments,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=output or asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    env=self._environ | {"CUDA_MPS_PROTOCOL_VERSION": str(self._protocol)},
                )
            except (OSError, RuntimeError) as error:  # of asyncio's: no thread to wait for its end
                raise ControlNotRunError(f"{CONTROL} cannot be run ({error})") from None
            try:
                async with asyncio.timeout(timeout_seconds):
                    piped, _ = await process.communicate(said.encode())
            except TimeoutError:
                raise ControlError(f"{command!r} took longer than {timeout_seconds:g} s") from None
            finally:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
            written = output_path.read_bytes() if starts else piped
        text = written.decode(errors="replace")
        if process.returncode != 0:
            raise ControlError(f"{command!r} ended with {process.returncode}: {_shortened(text)}")
        return text


def _shortened(text: str) -> str:
    return text.strip()[:MAX_OUTPUT_CHARACTERS]
