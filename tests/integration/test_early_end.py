"""A program that is told to end before it has begun, as the first process of its container."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

END_SECONDS = 120.0
"""A program that goes on sleeps for five times as long."""
SLOW_IMPORT = """
import os, signal, time
assert os.getpid() == 1
# In the middle of the program's imports, as on a node that is short of CPU.
os.kill(os.getpid(), signal.{name})
time.sleep(600)
"""
AS_FIRST_PROCESS = ["unshare", "--pid", "--fork", "--kill-child"]
AS_ANYBODY = ["--user", "--map-current-user"]


@pytest.mark.parametrize(
    ("program", "number"),
    [
        ("slm_operator", signal.SIGTERM),
        ("slm_operator.activator", signal.SIGTERM),
        ("slm_worker", signal.SIGTERM),
        ("slm_worker", signal.SIGINT),
    ],
)
def test_a_signal_during_the_imports_ends_it_in_order(
    tmp_path: Path, program: str, number: signal.Signals
) -> None:
    """The kernel keeps a signal without a handler from the first process: it would sleep on."""
    (tmp_path / "aiohttp.py").write_text(SLOW_IMPORT.format(name=number.name))
    alone = [*AS_FIRST_PROCESS, *([] if os.geteuid() == 0 else AS_ANYBODY)]
    done = subprocess.run(
        [*alone, sys.executable, "-m", program],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        timeout=END_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
