"""Whether the kernel ended an engine for lack of the host's memory, and what is said of it."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from slm_worker.engine.base import EngineCommand
from slm_worker.replicas import ports, replica
from slm_worker.replicas.memory_limit import RECENT_SECONDS, MemoryLimit
from slm_worker.replicas.ports import Ports
from slm_worker.replicas.process import EngineProcess
from slm_worker.replicas.progress import StartDeadlines, StartProgress
from slm_worker.replicas.replica import EngineHost, EngineRun, ReplicaError

LIMIT_BYTES = 2**30
Write = Callable[[int, int | None], None]


@pytest.fixture(params=["version 1", "version 2"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Write:
    """Writes the kills so far and the limit, as that version of control groups shows them."""

    def version_1(kills: int, limit_bytes: int | None) -> None:
        folder = tmp_path / "memory"
        folder.mkdir(exist_ok=True)
        limit = 2**63 - 4096 if limit_bytes is None else limit_bytes
        text = f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n"
        (folder / "memory.oom_control").write_text(text)
        (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")

    def version_2(kills: int, limit_bytes: int | None) -> None:
        text = f"low 0\nhigh 0\nmax 9\noom 4\noom_kill {kills}\noom_group_kill 0\n"
        (tmp_path / "memory.events").write_text(text)
        limit = "max" if limit_bytes is None else limit_bytes
        (tmp_path / "memory.max").write_text(f"{limit}\n")

    return version_1 if request.param == "version 1" else version_2


def test_a_kill_is_told_once_with_the_limit_and_its_field(write: Write, tmp_path: Path) -> None:
    write(0, LIMIT_BYTES)
    limit = MemoryLimit(tmp_path)
    assert limit.killed() == ""
    write(1, LIMIT_BYTES)
    told = limit.killed()
    assert "memory limit of 1,073,741,824 bytes" in told
    assert "spec.podTemplate.resources.limits.memory" in told
    assert limit.killed() == ""


def test_kills_of_before_the_agent_do_not_count(write: Write, tmp_path: Path) -> None:
    write(3, LIMIT_BYTES)
    assert MemoryLimit(tmp_path).killed() == ""


def test_a_kill_explains_the_ends_that_follow_it_at_once(write: Write, tmp_path: Path) -> None:
    now = [0.0]
    write(0, LIMIT_BYTES)
    limit = MemoryLimit(tmp_path, clock=lambda: now[0])
    write(1, LIMIT_BYTES)
    limit.look()
    now[0] += RECENT_SECONDS
    assert "memory limit" in limit.killed()
    write(2, LIMIT_BYTES)
    limit.look()
    now[0] += RECENT_SECONDS + 1
    assert limit.killed() == ""


def test_a_count_that_cannot_be_read_for_a_moment_makes_no_old_kill_a_new_one(
    write: Write, tmp_path: Path
) -> None:
    write(3, LIMIT_BYTES)
    limit = MemoryLimit(tmp_path)
    counts = next(
        file for file in tmp_path.rglob("*") if file.name in ("memory.events", "memory.oom_control")
    )
    counts.rename(counts.with_suffix(".away"))
    limit.look()
    counts.with_suffix(".away").rename(counts)
    assert limit.killed() == ""
    write(4, LIMIT_BYTES)
    assert "memory limit" in limit.killed()


def test_without_a_limit_it_was_the_node_that_had_no_memory(write: Write, tmp_path: Path) -> None:
    write(0, None)
    limit = MemoryLimit(tmp_path)
    write(1, None)
    assert "the node had no memory left" in limit.killed()


def test_where_nothing_counts_no_kill_is_known(tmp_path: Path) -> None:
    assert MemoryLimit(tmp_path).killed() == ""


class EndedProcess:
    log_tail = ""

    def __init__(self, returncode: int) -> None:
        self._returncode = returncode

    async def wait(self) -> int:
        return self._returncode

    async def kill(self) -> None:
        pass


class Engine:
    def command(self, _: object) -> EngineCommand:
        return EngineCommand(("engine",), {})

    def explain_exit(self, returncode: int, _: str, **__: object) -> tuple[str, str]:
        return "Explained", f"by {returncode}"


def host(tmp_path: Path) -> EngineHost:
    device = SimpleNamespace(engine_env=lambda _: {}, release=None)
    values: dict[str, Any] = {
        "engine": Engine(),
        "http": None,
        "address": "127.0.0.1",
        "pack_address": "127.0.0.1",
        "model_name": "m",
        "clock": lambda: 0.0,
        "run_dir": tmp_path,
        "cache_dir": tmp_path,
        "agent_env": {},
        "device": device,
        "deadlines": StartDeadlines(),
        "memory_limit": MemoryLimit(tmp_path),
        "ports": Ports(),
    }
    return cast(EngineHost, SimpleNamespace(**values))


@pytest.mark.parametrize("returncode", [-signal.SIGKILL, 1])
async def test_an_engine_whose_process_or_child_was_killed_is_out_of_memory(
    write: Write, tmp_path: Path, returncode: int
) -> None:
    write(0, LIMIT_BYTES)
    pack = host(tmp_path)
    process = cast(EngineProcess, EndedProcess(returncode))
    run = EngineRun(pack, (0, 1), 9000, process, StartProgress(pack.deadlines, 0.0))
    assert (await run.death()).reason == "Explained"
    write(1, LIMIT_BYTES)
    assert (await run.death()).reason == "OutOfMemory"


@pytest.mark.parametrize(
    ("number", "reason", "remedy"),
    [
        (errno.ENOSPC, "DiskFull", "limits.ephemeral-storage"),
        (errno.EDQUOT, "DiskFull", "limits.ephemeral-storage"),
        (errno.ENOENT, "EngineNotFound", "install it"),
        (errno.EAGAIN, "StartRefused", "raise the limit of processes"),
    ],
)
async def test_an_engine_that_cannot_be_started_says_what_was_lacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str, remedy: str
) -> None:
    async def refuse(*_: object, **__: object) -> EngineProcess:
        raise OSError(number, "no", str(tmp_path))

    monkeypatch.setattr(EngineProcess, "start", refuse)
    settings = SimpleNamespace(
        max_num_seqs=1, kv_cache_bytes=None, gpu_memory_utilization=None, sleep_mode=False
    )
    with pytest.raises(ReplicaError) as error:
        await EngineRun.launch(host(tmp_path), (0, 1), cast(Any, settings), None)
    assert error.value.reason == reason
    assert remedy in error.value.message


async def test_without_a_free_port_an_engine_cannot_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: str) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(ports, "free_port", refuse)
    with pytest.raises(ReplicaError, match="Too many open files") as error:
        await EngineRun.launch(host(tmp_path), (0, 1), cast(Any, None), None)
    assert error.value.reason == "StartRefused"


async def test_an_engine_that_cannot_be_given_its_cores_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []

    class Process:
        pid = 1

        async def kill(self) -> None:
            ended.append("kill")

    async def start(*_: object, **__: object) -> Process:
        return Process()

    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(EngineProcess, "start", start)
    monkeypatch.setattr(replica, "pin", refuse)
    settings = SimpleNamespace(
        max_num_seqs=1, kv_cache_bytes=None, gpu_memory_utilization=None, sleep_mode=False
    )
    with pytest.raises(OSError, match="Invalid argument"):
        await EngineRun.launch(host(tmp_path), (0, 1), cast(Any, settings), frozenset({0}))
    assert ended == ["kill"]
