"""MpsDaemon over a control program of our own that speaks the real one's command line."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
from pathlib import Path

import pytest

from slm_worker.gpu.mps import CONTROL, MpsDaemon

CONTROL_DIRECTORY = Path(__file__).parent.parent / "fixtures" / "mps"


@pytest.fixture
def control_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{CONTROL_DIRECTORY}:{os.environ['PATH']}")


def ask(env: dict[str, str], command: str) -> int:
    """The control program's exit status: 0 when the daemon of ``env`` answered."""
    return subprocess.run(
        [CONTROL_DIRECTORY / CONTROL], input=command, text=True, env={**os.environ, **env}
    ).returncode


def mode(directory: str) -> int:
    return stat.S_IMODE(Path(directory).stat().st_mode)


async def test_without_the_control_program_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    daemon = await MpsDaemon.start(tmp_path)
    assert daemon.status.state == "Unavailable"
    assert "install the NVIDIA driver's compute utilities" in daemon.status.message
    assert daemon.engine_env() == {}
    await daemon.close()


@pytest.mark.usefixtures("control_on_path")
async def test_runs_a_daemon_in_private_directories_until_closed(tmp_path: Path) -> None:
    daemon = await MpsDaemon.start(tmp_path)
    env = daemon.engine_env()
    assert daemon.status.state == "Running", daemon.status.message
    assert set(env) == {"CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"}
    assert [mode(directory) for directory in env.values()] == [0o700, 0o700]
    assert await asyncio.to_thread(ask, env, "get_server_list\n") == 0
    await daemon.close()
    assert daemon.engine_env() == {}
    assert await asyncio.to_thread(ask, env, "get_server_list\n") == 1


@pytest.mark.usefixtures("control_on_path")
async def test_the_daemon_does_not_renumber_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    daemon = await MpsDaemon.start(tmp_path)
    try:
        log = Path(daemon.engine_env()["CUDA_MPS_LOG_DIRECTORY"]) / "control.log"
        assert log.read_text() == "visible None\n"
    finally:
        await daemon.close()


@pytest.mark.usefixtures("control_on_path")
async def test_a_daemon_that_refuses_to_start_is_unavailable_in_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLM_TEST_MPS", "refuse")
    daemon = await MpsDaemon.start(tmp_path)
    assert daemon.status.state == "Unavailable"
    assert "already running" in daemon.status.message
    assert str(tmp_path / "mps/log") in daemon.status.message


@pytest.mark.usefixtures("control_on_path")
async def test_a_daemon_that_does_not_answer_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLM_TEST_MPS", "hang")
    daemon = await MpsDaemon.start(tmp_path, timeout_seconds=3)
    assert daemon.status.state == "Unavailable"
    assert "took longer than 3 s" in daemon.status.message
    monkeypatch.delenv("SLM_TEST_MPS")
    env = {
        f"CUDA_MPS_{kind.upper()}_DIRECTORY": f"{tmp_path}/mps/{kind}" for kind in ("pipe", "log")
    }
    await asyncio.to_thread(ask, env, "quit\n")
