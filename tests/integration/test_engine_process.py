"""What an engine's process tells of itself."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection
from pathlib import Path
from typing import NoReturn

import psutil
import pytest

from slm_worker.replicas.output import Output
from slm_worker.replicas.process import EngineProcess

SPINS_IN_A_CHILD = """
import os, time
if os.fork() == 0:
    end = time.process_time() + 1.0
    while time.process_time() < end:
        pass
    print("spun", flush=True)
time.sleep(60)
"""
SPINS_ITSELF = """
import time
end = time.process_time() + 1.0
while time.process_time() < end:
    pass
print("spun", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("program", "least_seconds", "most_seconds"),
    [(SPINS_ITSELF, 1.0, 3.0), (SPINS_IN_A_CHILD, 0.0, 0.7)],
    ids=["its server", "another process"],
)
async def test_only_what_the_server_itself_computed_counts(
    tmp_path: Path, program: str, least_seconds: float, most_seconds: float
) -> None:
    spun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def heard(line: str) -> None:
        loop.call_soon_threadsafe(spun.set)

    async def let_go(pids: Collection[int]) -> None: ...

    process = await EngineProcess.start(
        0,
        (sys.executable, "-c", program),
        {},
        tmp_path / "own",
        heard=heard,
        release=let_go,
    )
    async with asyncio.timeout(60):
        await spun.wait()
    used_seconds = process.cpu_seconds()
    await process.kill()
    assert used_seconds is not None and least_seconds <= used_seconds <= most_seconds
    assert process.cpu_seconds() is None


async def test_a_process_that_nobody_can_follow_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def let_go(pids: Collection[int]) -> None: ...

    async def refuse(*_: object) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Output, "follow", refuse)
    command = (sys.executable, "-c", "import time; time.sleep(60)", str(tmp_path))
    with pytest.raises(RuntimeError, match="new thread"):
        await EngineProcess.start(
            0, command, {}, tmp_path / "own", heard=lambda _: None, release=let_go
        )
    assert not [child for child in psutil.Process().children() if str(tmp_path) in child.cmdline()]
    assert not (tmp_path / "own").exists()
