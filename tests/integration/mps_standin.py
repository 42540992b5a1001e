"""A scriptable MPS daemon for tests: NVIDIA's control program, replaced by an executable of ours.

Put :attr:`MpsStandin.env` into the environment of whoever shall start the daemon (an agent, or the
test itself). A client is then any process with the daemon's CUDA_MPS_PIPE_DIRECTORY in its
environment, so that engines need not know of it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TypedDict, Unpack

SOURCES = Path(__file__).parent.parent / "fixtures" / "mps"


class Settings(TypedDict, total=False):
    """How the daemon behaves; what is left out is as the real one does."""

    refuse: str
    """``-d`` fails with this text."""
    protocol_3_only: bool
    hang: bool
    """No command is ever answered."""
    unknown: list[str]
    """Commands that this release does not have."""
    one_line: bool
    """A list of clients is one line."""
    server_fails: str
    """A server ends when it is started, with this text in its log."""
    fault_kills: bool
    """False: clients live on after a fault, until somebody ends them."""
    stays_faulted: bool
    """The server does not come back when the last client has gone."""
    server_dies: bool
    """A fault ends the server too."""


class MpsStandin:
    """``directory`` is private to it and must exist."""

    def __init__(self, directory: Path) -> None:
        self._settings = directory / "mps-standin.json"
        self._programs = directory / "mps-programs"
        self._programs.mkdir()
        # With this interpreter: the one on PATH may be a script, whose helpers look like clients.
        for source in SOURCES.iterdir():
            program = self._programs / source.name
            _, _, text = source.read_text().partition("\n")
            program.write_text(f"#!{sys.executable} -IS\n{text}")
            program.chmod(0o755)
        self.set()

    @property
    def env(self) -> dict[str, str]:
        """What an environment needs on top, for the stand-in to be found and scripted."""
        return {
            "PATH": f"{self._programs}{os.pathsep}{os.environ['PATH']}",
            "MPS_STANDIN": str(self._settings),
        }

    def set(self, **settings: Unpack[Settings]) -> None:
        """Replaces all settings; they hold at once, also for a daemon that runs."""
        fresh = self._settings.with_suffix(".new")
        fresh.write_text(json.dumps(settings))
        fresh.replace(self._settings)

    @property
    def pipe_directory(self) -> Path:
        """Of the daemon that was started last."""
        return Path(self._settings.with_name(f"{self._settings.name}.pipe").read_text())

    @property
    def daemon_pid(self) -> int:
        return int((self.pipe_directory / "nvidia-cuda-mps-control.pid").read_text())

    def kill_daemon(self) -> None:
        os.kill(self.daemon_pid, signal.SIGKILL)

    def fault(self, reason: str, *, culprit: int | None = None, silent: bool = False) -> None:
        """A fatal fault: every client ends, and new ones are refused until all are gone.

        ``culprit``: a client that the log names; ``silent``: the log says nothing of it.
        """
        options = ["--silent"] if silent else []
        options += ["--client", str(culprit)] if culprit is not None else []
        self.ask(" ".join(["standin-fault", *options, reason]))

    def clients(self) -> tuple[int, ...]:
        """Process ids, of a daemon that speaks protocol 2."""
        servers = self.ask("get_server_list").split()
        return tuple(
            int(pid) for one in servers for pid in self.ask(f"get_client_list {one}").split()
        )

    def ask(self, command: str) -> str:
        """What the daemon answers. Raises CalledProcessError where none runs."""
        pipe = self.pipe_directory
        env = os.environ | self.env
        env |= {
            "CUDA_MPS_PIPE_DIRECTORY": str(pipe),
            "CUDA_MPS_LOG_DIRECTORY": str(pipe.parent / "log"),
        }
        program = str(self._programs / "nvidia-cuda-mps-control")
        return subprocess.run(
            [program], input=command, text=True, env=env, check=True, capture_output=True
        ).stdout
