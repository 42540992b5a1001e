"""Runs one program and ends it when standard input closes, which happens when the starter dies.

Called as a script: `guard.py FOLDER PROGRAM ARGUMENT...`. The kernel's own signal at a parent's
death is tied to the thread that forked, which for the starter may be a short-lived worker thread.
This process has one thread, so between it and the program that signal can be relied on.
"""

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys

GRACE_SECONDS = 15.0
_PR_SET_PDEATHSIG = 1


def main(folder: str, command: list[str]) -> int:
    """Run `command` to its end and return its exit code; remove `folder` if the starter is gone."""
    libc = ctypes.CDLL(None)
    starter, guard = os.getppid(), os.getpid()

    def die_with_the_guard() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:
            os._exit(1)

    program = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_the_guard)
    ended = os.pidfd_open(program.pid)
    select.select([sys.stdin.fileno(), ended], [], [])
    program.terminate()
    try:
        program.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        program.kill()
        program.wait()
    if os.getppid() != starter:
        shutil.rmtree(folder, ignore_errors=True)
    return program.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
