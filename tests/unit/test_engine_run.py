"""One engine process from its launch to its first token."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
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
DEAD = "a one-token completion was answered with 500: EngineCore encountered an issue"
CUT = "a one-token completion failed: Server disconnected"


class FakeEngine:
    def explain_exit(self, _: int, log_tail: str) -> tuple[str, str]:
        return find_cause(log_tail) or ("EngineExited", "it ended")


class FakeProcess:
    def __init__(self) -> None:
        self.log_tail = ""
        self.exited = asyncio.Event()

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


def engine_run(process: FakeProcess, first_token: Callable[[], None]) -> EngineRun:
    host = SimpleNamespace(
        engine=FakeEngine(),
        http=None,
        address="127.0.0.1",
        model_name="m",
        clock=lambda: 0.0,
        memory_limit=MemoryLimit(),
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


async def test_an_engine_that_lives_on_without_a_token_does_not_compute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replica, "DYING_SECONDS", 0.0)

    def refuse() -> None:
        raise EngineNotAnsweringError(DEAD)

    with pytest.raises(ReplicaError, match=r"does not compute: .* answered with 500") as told:
        await engine_run(FakeProcess(), refuse).until_ready()
    assert told.value.reason == "FirstCompletionFailed"


async def test_an_engine_is_ready_after_its_first_token() -> None:
    await engine_run(FakeProcess(), lambda: None).until_ready()
