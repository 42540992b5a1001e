"""One engine process from its launch to its first token."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from slm_worker.engine.causes import find_cause
from slm_worker.engine.client import EngineClient, EngineNotAnsweringError
from slm_worker.replicas import replica
from slm_worker.replicas.memory_limit import MemoryLimit
from slm_worker.replicas.progress import StartDeadlines, StartProgress
from slm_worker.replicas.replica import EngineHost, EngineRun, ReplicaError

OUT_OF_MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
ABOUT_A_MODEL = (
    "requests.exceptions.HTTPError: 403 Client Error: Forbidden for url: https://x/y.png"
)
DEAD = "a one-token completion was answered with 500: EngineCore encountered an issue"
CUT = "a one-token completion failed: Server disconnected"


class FakeEngine:
    def explain_exit(self, _: int, log_tail: str, *, was_ready: bool) -> tuple[str, str]:
        return find_cause(log_tail, was_ready=was_ready) or ("EngineExited", log_tail)


class FakeProcess:
    def __init__(self) -> None:
        self.log_tail = ""
        self.exited = asyncio.Event()

    def take_log(self) -> str:
        taken, self.log_tail = self.log_tail, ""
        return taken

    @property
    def returncode(self) -> int | None:
        return 1 if self.exited.is_set() else None

    async def wait(self) -> int:
        await self.exited.wait()
        return 1

    async def kill(self) -> None:
        self.exited.set()


class FakeClient:
    """Of an engine that is healthy at once; ``first_token`` is what asking for one does."""

    def __init__(self, first_token: Callable[[], None]) -> None:
        self._first_token = first_token

    async def healthy(self) -> bool:
        return True

    async def complete_one_token(self, _: float) -> None:
        self._first_token()


def engine_run(
    process: FakeProcess,
    first_token: Callable[[], None],
    memory_limit: MemoryLimit | None = None,
) -> EngineRun:
    host = SimpleNamespace(
        engine=FakeEngine(),
        http=None,
        address="127.0.0.1",
        model_name="m",
        clock=lambda: 0.0,
        memory_limit=memory_limit or MemoryLimit(),
    )
    progress = StartProgress(StartDeadlines(), 0.0)
    run = EngineRun(cast(EngineHost, host), (0, 1), 9000, cast(Any, process), progress)
    run.client = cast(EngineClient, FakeClient(first_token))
    return run


@pytest.mark.parametrize("answer", [DEAD, CUT])
async def test_a_death_in_the_first_completion_is_told_by_its_cause(answer: str) -> None:
    process = FakeProcess()

    def die() -> None:
        process.log_tail = OUT_OF_MEMORY
        asyncio.get_running_loop().call_later(0.05, process.exited.set)
        raise EngineNotAnsweringError(answer)

    with pytest.raises(ReplicaError, match="CUDA out of memory") as told:
        await engine_run(process, die).until_ready()
    assert told.value.reason == "OutOfMemory"


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        pytest.param("", "FirstCompletionFailed", id="without a word"),
        pytest.param(ABOUT_A_MODEL, "FirstCompletionFailed", id="with what only starts fail at"),
        pytest.param(OUT_OF_MEMORY, "OutOfMemory", id="with the cause in its output"),
    ],
)
async def test_an_engine_that_lives_on_without_a_token_is_told_by_what_it_wrote(
    monkeypatch: pytest.MonkeyPatch, written: str, reason: str
) -> None:
    monkeypatch.setattr(replica, "DYING_SECONDS", 0.0)
    process = FakeProcess()

    def refuse() -> None:
        process.log_tail = written
        raise EngineNotAnsweringError(DEAD)

    with pytest.raises(ReplicaError) as told:
        await engine_run(process, refuse).until_ready()
    assert told.value.reason == reason


@pytest.mark.parametrize(
    ("dies", "reason"), [(False, "FirstCompletionFailed"), (True, "EngineExited")]
)
async def test_what_an_engine_got_over_before_it_was_healthy_is_not_why_it_has_no_token(
    monkeypatch: pytest.MonkeyPatch, dies: bool, reason: str
) -> None:
    monkeypatch.setattr(replica, "DYING_SECONDS", 0.0)
    process = FakeProcess()
    process.log_tail = OUT_OF_MEMORY

    def refuse() -> None:
        if dies:
            process.exited.set()
        raise EngineNotAnsweringError(DEAD)

    with pytest.raises(ReplicaError) as told:
        await engine_run(process, refuse).until_ready()
    assert told.value.reason == reason


@pytest.mark.parametrize("lives_on", [False, True], ids=["it dies of it", "it lives on"])
async def test_a_kill_for_lack_of_memory_is_told_of_the_engine_whose_first_token_it_cost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lives_on: bool
) -> None:
    monkeypatch.setattr(replica, "DYING_SECONDS", 0.1)
    events = tmp_path / "memory.events"
    events.write_text("oom_kill 0\n")
    limit = MemoryLimit(tmp_path)
    process = FakeProcess()

    def lose_a_process() -> None:
        events.write_text("oom_kill 1\n")
        if not lives_on:
            asyncio.get_running_loop().call_later(0.01, process.exited.set)
        raise EngineNotAnsweringError(DEAD)

    with pytest.raises(ReplicaError) as told:
        await engine_run(process, lose_a_process, limit).until_ready()
    assert told.value.reason == "OutOfMemory"
    assert limit.killed() == "", "nobody else is blamed"


async def test_what_a_start_wrote_explains_no_later_end() -> None:
    process = FakeProcess()
    process.log_tail = OUT_OF_MEMORY

    def write_on() -> None:
        process.log_tail += "\nwith a token"

    run = engine_run(process, write_on)
    assert await run.until_ready() == f"{OUT_OF_MEMORY}\nwith a token"
    process.log_tail = ABOUT_A_MODEL
    process.exited.set()
    assert (await run.death()).reason == "EngineExited"
