"""Run one command of the setup and turn its failure into an error worth reading."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence

from slm_dev.vllm_cpu.errors import SetupError

Run = Callable[[Sequence[str]], str]

_LINES_SHOWN = 15


def run_command(command: Sequence[str]) -> str:
    """Run `command` to its end and return what it printed on standard output.

    Raises SetupError, with the command and its last lines, when it is missing or fails.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise SetupError(f"cannot run {command[0]}: no such program; install it") from None
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines()[-_LINES_SHOWN:]
        raise SetupError(
            f"this command failed with exit code {done.returncode}:\n  {' '.join(command)}\n"
            "Its last lines say what to mend; then run the setup again:\n  " + "\n  ".join(lines)
        )
    return done.stdout
