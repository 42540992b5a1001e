"""An agent that is told to end before it has begun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

END_SECONDS = 30.0
SLOW_IMPORT = """
import os, signal, time
# In the middle of the agent's imports, as on a node that is short of CPU.
os.kill(os.getpid(), signal.{name})
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_imports_ends_it_in_order(
    tmp_path: Path, number: signal.Signals
) -> None:
    """Without a handler it would end by the signal, or, first in its container, not at all."""
    (tmp_path / "aiohttp.py").write_text(SLOW_IMPORT.format(name=number.name))
    done = subprocess.run(
        [sys.executable, "-m", "slm_worker"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
        timeout=END_SECONDS,
        check=False,
    )
    assert done.returncode == 0
