"""CUDA MPS: the daemon through which several engine processes run on one GPU at the same time.

Without it the GPU's processes take turns, and further replicas bring nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from pathlib import Path
from typing import Self

from slm_worker.gpu.base import MpsStatus

CONTROL = "nvidia-cuda-mps-control"
COMMAND_TIMEOUT_SECONDS = 30.0
QUIT_SECONDS = 10
"""How long servers may take to end before the daemon forces them."""
MAX_OUTPUT_CHARACTERS = 500

_log = logging.getLogger(__name__)


class MpsDaemon:
    """A control daemon with pipe and log directories of its own below ``run_dir``.

    ``status`` is Running, or Unavailable with cause and remedy: a GPU without MPS still serves one
    replica, so nothing here raises.
    """

    def __init__(self, directory: Path, status: MpsStatus) -> None:
        self.status = status
        self._directory = directory

    @classmethod
    async def start(cls, run_dir: Path, timeout_seconds: float = COMMAND_TIMEOUT_SECONDS) -> Self:
        """Starts the daemon and waits until it answers a command."""
        directory = run_dir / "mps"
        if shutil.which(CONTROL) is None:
            return cls(
                directory,
                _unavailable(
                    f"{CONTROL} is not on PATH: install the NVIDIA driver's compute utilities "
                    "(in a container, let the NVIDIA container toolkit mount them: "
                    "NVIDIA_DRIVER_CAPABILITIES must include compute)."
                ),
            )
        for path in (directory, directory / "pipe", directory / "log"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        daemon = cls(directory, MpsStatus("Running"))
        try:
            await daemon._control(["-d"], "", timeout_seconds)
            await daemon._control([], "get_server_list\n", timeout_seconds)
        except _ControlError as error:
            daemon.status = _unavailable(
                f"the MPS control daemon did not start: {error}. Its log is in "
                f"{directory / 'log'}; check that no other MPS daemon holds this GPU and that "
                "this user may start one."
            )
        return daemon

    def engine_env(self) -> dict[str, str]:
        """What makes an engine process a client of this daemon."""
        return self._directories() if self.status.state == "Running" else {}

    async def close(self, timeout_seconds: float = COMMAND_TIMEOUT_SECONDS) -> None:
        """Ends the daemon; its clients must have ended before."""
        if self.status.state != "Running":
            return
        self.status = _unavailable("the MPS control daemon was ended.")
        try:
            # A plain quit would wait for clients without end.
            await self._control([], f"quit -t {QUIT_SECONDS}\n", timeout_seconds)
        except _ControlError as error:
            _log.warning("The MPS control daemon did not end: %s", error)

    def _directories(self) -> dict[str, str]:
        return {
            "CUDA_MPS_PIPE_DIRECTORY": str(self._directory / "pipe"),
            "CUDA_MPS_LOG_DIRECTORY": str(self._directory / "log"),
        }

    async def _control(self, arguments: list[str], stdin: str, timeout_seconds: float) -> None:
        """Runs the control program once. Raises _ControlError unless it ends well in time."""
        # With CUDA_VISIBLE_DEVICES the daemon would number GPUs anew and clients, which keep the
        # variable, would look for numbers that are gone.
        env = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
        # The daemon outlives the program: through a pipe it would keep our reading open.
        output_file = self._directory / "control.out"
        with output_file.open("wb") as output:
            try:
                process = await asyncio.create_subprocess_exec(
                    CONTROL,
                    *arguments,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=output,
                    stderr=asyncio.subprocess.STDOUT,
                    env={**env, **self._directories()},
                )
            except OSError as error:
                raise _ControlError(f"{CONTROL} cannot be run ({error.strerror})") from None
        command = " ".join([*arguments, stdin.strip()]).strip()
        try:
            async with asyncio.timeout(timeout_seconds):
                await process.communicate(stdin.encode())
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise _ControlError(f"{command!r} took longer than {timeout_seconds:g} s") from None
        if process.returncode != 0:
            said = output_file.read_text(errors="replace")[:MAX_OUTPUT_CHARACTERS].strip()
            raise _ControlError(f"{command!r} ended with {process.returncode}: {said}")


class _ControlError(Exception):
    """A command that the control program did not carry out."""


def _unavailable(message: str) -> MpsStatus:
    return MpsStatus("Unavailable", message)
