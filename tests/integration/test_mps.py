"""MpsDaemon over a control program of our own that behaves as the real one is documented to."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from mps_standin import MpsStandin, Settings
from slm_worker.gpu.mps import HEADROOM_BYTES, NO_LIMITS, MpsDaemon, MpsTimings
from slm_worker.gpu.mps_control import MpsDirectories
from slm_worker.gpu.mps_processes import in_directories
from slm_worker.wire import MpsConfig

PATIENCE_SECONDS = 60
QUICK = MpsTimings(look_seconds=0.5, log_seconds=0.1, release_seconds=20, quit_seconds=3)
GPU = "GPU-0123"


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MpsStandin:
    standin = MpsStandin(tmp_path)
    for name, value in standin.env.items():
        monkeypatch.setenv(name, value)
    return standin


@asynccontextmanager
async def running(
    run_dir: Path, config: MpsConfig = NO_LIMITS, timings: MpsTimings = QUICK
) -> AsyncIterator[MpsDaemon]:
    daemon = await MpsDaemon.start(run_dir, config, GPU, timings)
    try:
        assert daemon.status.state == "Running", daemon.status.message
        yield daemon
    finally:
        await daemon.close()
        assert processes_in(run_dir) == []


@contextmanager
def engine(env: dict[str, str], group: int = 0) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is a client with the daemon's environment; leads a group unless in another."""
    process = subprocess.Popen(
        [sys.executable, "-IS", "-c", "import time; time.sleep(600)"],
        env={**os.environ, **env},
        process_group=group,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def processes_in(run_dir: Path) -> list[int]:
    return in_directories(MpsDirectories(run_dir / "mps/pipe", run_dir / "mps/log"))


def mode(directory: str) -> int:
    return stat.S_IMODE(Path(directory).stat().st_mode)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await asyncio.to_thread(holds):
            await asyncio.sleep(0.05)


async def until_clients(standin: MpsStandin, *expected: subprocess.Popen[bytes]) -> None:
    await until(lambda: set(standin.clients()) == {one.pid for one in expected})


# A node that has it, or has not.


async def test_without_the_control_program_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    daemon = await MpsDaemon.start(tmp_path)
    assert daemon.status.state == "Unavailable"
    assert "install the NVIDIA driver's compute utilities" in daemon.status.message
    assert daemon.engine_env() == {}
    await daemon.recover()
    await daemon.close()


async def test_runs_a_daemon_in_private_directories_until_closed(
    tmp_path: Path, standin: MpsStandin
) -> None:
    async with running(tmp_path) as daemon:
        env = daemon.engine_env()
        assert set(env) == {"CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"}
        assert [mode(directory) for directory in env.values()] == [0o700, 0o700]
        await until(lambda: len(processes_in(tmp_path)) == 2)  # also a server, with the GPU
    assert daemon.status.state == "Unavailable"
    assert daemon.engine_env() == {}


async def test_limits_each_client_s_multiprocessors_and_memory(
    tmp_path: Path, standin: MpsStandin
) -> None:
    async with running(tmp_path, MpsConfig(active_thread_percentage=50)) as daemon:
        env = daemon.engine_env(memory_bytes=30 * 2**30)
    assert env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "50"
    limit_mebibytes = (30 * 2**30 + HEADROOM_BYTES) // 2**20
    assert env["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == f"{GPU}={limit_mebibytes}M"


async def test_the_daemon_inherits_neither_other_limits_nor_secrets_nor_the_choice_of_gpus(
    tmp_path: Path, standin: MpsStandin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "10")
    monkeypatch.setenv("SLM_AGENT_TOKEN_FILE", "/run/slm/token")
    async with running(tmp_path):
        environ = Path(f"/proc/{standin.daemon_pid}/environ").read_bytes()
    for name in (b"CUDA_VISIBLE_DEVICES", b"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", b"SLM_AGENT_TOKEN"):
        assert name not in environ


@pytest.mark.parametrize(
    ("settings", "command_seconds", "said"),
    [
        ({"refuse": "An instance of this daemon is already running"}, 60, "already running"),
        ({"server_fails": "invalid argument"}, 60, "Failed to start : invalid argument"),
        ({"hang": True}, 2, "took longer than 2 s"),
    ],
)
async def test_a_daemon_that_does_not_start_is_unavailable_in_its_own_words(
    tmp_path: Path, standin: MpsStandin, settings: Settings, command_seconds: float, said: str
) -> None:
    standin.set(**settings)
    timings = MpsTimings(command_seconds=command_seconds, log_seconds=0.1, quit_seconds=1)
    daemon = await MpsDaemon.start(tmp_path, timings=timings)
    assert daemon.status.state == "Unavailable"
    assert said in daemon.status.message
    assert str(tmp_path / "mps/log") in daemon.status.message
    assert processes_in(tmp_path) == []


# Releases differ.


@pytest.mark.parametrize("release", [{"one_line": True}, {"protocol_3_only": True}])
async def test_another_release_is_understood_as_well(
    tmp_path: Path, standin: MpsStandin, release: Settings
) -> None:
    standin.set(**release)
    async with running(tmp_path) as daemon:
        with engine(daemon.engine_env()) as one, engine(daemon.engine_env()) as other:
            logs = tmp_path / "mps/log"

            def told(text: str) -> bool:
                return any(text in log.read_text() for log in logs.rglob("server.log"))

            await until(lambda: told(f"{one.pid}, Context") and told(f"{other.pid}, Context"))
            await daemon.release([other.pid])
            assert told(f"Terminated the work of client {{PID: {other.pid},")
            assert not told(f"Terminated the work of client {{PID: {one.pid},")


async def test_a_release_without_some_commands_runs_and_says_what_is_missing(
    tmp_path: Path, standin: MpsStandin
) -> None:
    standin.set(unknown=["get_server_status", "terminate_client"])
    async with running(tmp_path) as daemon:
        with engine(daemon.engine_env()) as one:
            await until_clients(standin, one)
            await daemon.release([one.pid])
            await until(lambda: "get_server_status, terminate_client" in daemon.status.message)
            assert daemon.status.state == "Running"


# A client ends.


async def test_releasing_a_group_ends_the_gpu_work_of_its_processes_and_of_no_others(
    tmp_path: Path, standin: MpsStandin
) -> None:
    async with running(tmp_path) as daemon:
        with engine(daemon.engine_env()) as one, engine(daemon.engine_env()) as other:
            await until_clients(standin, one, other)
            await daemon.release([one.pid])
            assert standin.clients() == (other.pid,)
            assert one.poll() is None, "the process itself is the caller's to end"
            assert daemon.status.state == "Running"


async def test_a_client_that_comes_and_goes_is_no_fault(
    tmp_path: Path, standin: MpsStandin
) -> None:
    async with running(tmp_path) as daemon:
        with engine(daemon.engine_env()) as one:
            await until_clients(standin, one)
        await until_clients(standin)
        await daemon.recover()
        assert (daemon.status.state, daemon.status.faults) == ("Running", 0)


# Faults.


async def test_a_fatal_fault_is_told_with_its_cause_and_over_when_all_clients_are_gone(
    tmp_path: Path, standin: MpsStandin
) -> None:
    async with running(tmp_path) as daemon:
        with engine(daemon.engine_env()) as one, engine(daemon.engine_env()) as other:
            await until_clients(standin, one, other)
            await asyncio.to_thread(standin.fault, "MMU fault, Xid 31")
            await until(lambda: daemon.status.state == "Faulted")
            assert "Server: Fatal GPU exception: MMU fault, Xid 31" in daemon.status.message
            assert str(tmp_path / "mps/log") in daemon.status.message
            assert daemon.status.faults == 1
            assert daemon.status.suspect_pids == ()
            assert await asyncio.to_thread(one.wait) == -signal.SIGABRT
            assert await asyncio.to_thread(other.wait) == -signal.SIGABRT
        await daemon.recover()
        assert (daemon.status.state, daemon.status.faults) == ("Running", 1)
        with engine(daemon.engine_env()) as next_one:
            await until_clients(standin, next_one)


async def test_a_client_that_the_log_names_is_suspected_by_its_process_group(
    tmp_path: Path, standin: MpsStandin
) -> None:
    async with running(tmp_path) as daemon:
        env = daemon.engine_env()
        with engine({}) as leader, engine(env, group=leader.pid) as worker:
            await until_clients(standin, worker)
            await until(lambda: worker.pid in daemon._groups)
            await asyncio.to_thread(standin.fault, "illegal address", culprit=worker.pid)
            await until(lambda: daemon.status.state == "Faulted")
            assert daemon.status.suspect_pids == (leader.pid,)


async def test_a_fault_without_a_word_in_the_log_shows_in_the_server_s_state(
    tmp_path: Path, standin: MpsStandin
) -> None:
    standin.set(fault_kills=False)
    async with running(tmp_path) as daemon:
        with engine(daemon.engine_env()) as one:
            await until_clients(standin, one)
            await asyncio.to_thread(standin.fault, "unheard", silent=True)
            await until(lambda: daemon.status.state == "Faulted")
            assert "is in state FAULT" in daemon.status.message
            recovering = asyncio.create_task(daemon.recover())
            await asyncio.sleep(QUICK.log_seconds)
            assert not recovering.done(), "a client is left, so no new one is let in"
            one.kill()
            one.wait()
            await recovering
        assert daemon.status.state == "Running"


@pytest.mark.parametrize("settings", [{"server_dies": True}, {"stays_faulted": True}])
async def test_a_server_that_does_not_come_back_is_started_anew(
    tmp_path: Path, standin: MpsStandin, settings: Settings
) -> None:
    standin.set(**settings)
    timings = MpsTimings(look_seconds=0.5, log_seconds=0.1, recover_seconds=1.5, quit_seconds=3)
    async with running(tmp_path, timings=timings) as daemon:
        with engine(daemon.engine_env()) as one:
            await until_clients(standin, one)
            await asyncio.to_thread(standin.fault, "gone", silent=True)
            await until(lambda: daemon.status.state == "Faulted")
            await asyncio.to_thread(one.wait)
        await daemon.recover()
        assert (daemon.status.state, daemon.status.faults) == ("Running", 1)
        with engine(daemon.engine_env()) as next_one:
            await until_clients(standin, next_one)


async def test_a_daemon_that_dies_is_a_fault_and_started_anew(
    tmp_path: Path, standin: MpsStandin
) -> None:
    async with running(tmp_path) as daemon:
        standin.kill_daemon()
        await until(lambda: daemon.status.state == "Faulted")
        assert "Cannot find MPS control daemon process" in daemon.status.message
        await daemon.recover()
        assert daemon.status.state == "Running"
        await until(lambda: len(processes_in(tmp_path)) == 2)  # the orphaned server is gone


async def test_a_daemon_that_hangs_is_a_fault_until_one_answers(
    tmp_path: Path, standin: MpsStandin
) -> None:
    # Commands have the time that is shipped: a busy machine starts small programs late.
    timings = MpsTimings(look_seconds=0.3, log_seconds=0.1, quit_seconds=1)
    async with running(tmp_path, timings=timings) as daemon:
        standin.set(hang=True)
        await until(lambda: daemon.status.state == "Faulted")
        assert "took longer than 10 s" in daemon.status.message
        await daemon.recover()
        assert daemon.status.state == "Faulted"
        assert "could not be started anew" in daemon.status.message
        standin.set()
        await daemon.recover()
        assert (daemon.status.state, daemon.status.faults) == ("Running", 1)


# Ends.


async def test_a_client_that_does_not_end_does_not_keep_the_daemon(
    tmp_path: Path, standin: MpsStandin
) -> None:
    timings = MpsTimings(log_seconds=0.1, quit_seconds=1.5)
    async with running(tmp_path, timings=timings) as daemon:
        with engine(daemon.engine_env()) as one:
            await until_clients(standin, one)
            await daemon.close()
            assert processes_in(tmp_path) == []


AGENT = """
import asyncio, sys
from pathlib import Path
from slm_worker.gpu.mps import MpsDaemon

async def main():
    daemon = await MpsDaemon.start(Path(sys.argv[1]))
    print(daemon.status.state, flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await daemon.close()

asyncio.run(main())
"""


@asynccontextmanager
async def other_agent(run_dir: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """An agent of its own, with a daemon that runs below ``run_dir``; ended in the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", AGENT, str(run_dir)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await process.stdout.readline() == b"Running\n"
    try:
        yield process
    finally:
        await process.communicate(b"end\n")


async def test_what_a_killed_agent_left_is_ended_and_what_another_runs_is_not(
    tmp_path: Path, standin: MpsStandin
) -> None:
    dead, alive, own = (tmp_path / name for name in ("dead", "alive", "own"))
    async with other_agent(alive):
        untouched = {standin.daemon_pid}
        async with other_agent(dead) as predecessor:
            predecessor.kill()
            await predecessor.wait()
        assert standin.daemon_pid in processes_in(dead), "the daemon outlives its agent"
        async with running(own):
            assert processes_in(dead) == []
            assert not (dead / "mps").exists()
            assert untouched <= set(processes_in(alive))
    assert processes_in(alive) == []


async def test_a_daemon_in_our_own_directories_is_replaced(
    tmp_path: Path, standin: MpsStandin
) -> None:
    async with other_agent(tmp_path) as predecessor:
        predecessor.kill()
        await predecessor.wait()
    before = standin.daemon_pid
    async with running(tmp_path):
        assert before not in processes_in(tmp_path)
        assert standin.daemon_pid in processes_in(tmp_path)
