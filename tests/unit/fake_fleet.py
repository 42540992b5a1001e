"""The agent's fleet with everything around it faked: processes, router, device, clock."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Collection
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, cast

import pytest

from slm_worker.engine.client import EngineNotAnsweringError
from slm_worker.gpu.base import DeviceReading, MpsStatus
from slm_worker.planning.learning import StartedReplica
from slm_worker.replicas import lifecycle
from slm_worker.replicas.fleet import Fleet
from slm_worker.replicas.planner import Settings, Target
from slm_worker.replicas.replica import EngineHost, ReplicaError
from slm_worker.replicas.witness import StartWitness
from slm_worker.wire import ReplicaPhase


class FakeProcess:
    log_of_start = "INFO [gpu_model_runner.py:1] Model loading took 2.5 GiB memory and 3.1 seconds"

    def __init__(self) -> None:
        # above what the kernel gives, so that nobody is pinned by it
        self.pid = 2**22 + len(FakeRun.made)
        self.exited = asyncio.Event()
        self.ended_by: list[str] = []
        self._killed = False

    @property
    def returncode(self) -> int | None:
        if not self.exited.is_set():
            return None
        return -signal.SIGKILL if self._killed else 1

    def cpu_seconds(self) -> float | None:
        return None

    async def wait(self) -> int:
        await self.exited.wait()
        return 1

    async def stop(self) -> None:
        self.ended_by.append("stop")
        self.exited.set()

    async def kill(self) -> None:
        self.ended_by.append("kill")
        self._killed |= not self.exited.is_set()
        self.exited.set()


class FakeRun:
    """An engine process whose readiness and death the test decides."""

    made: list[FakeRun]

    def __init__(self) -> None:
        self.process = FakeProcess()
        self.port = 9000 + len(FakeRun.made)
        self.client = self
        self.readiness: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.hangs = False
        self.deaf = False
        """Whether it hears nothing at all, asleep or not."""
        self.cause = ReplicaError("EngineExited", "it ended")
        self.asked: list[str] = []
        self.refusal: Exception | None = None
        self.dies_of_it = False
        """Whether its process ends a moment after the refusal."""

    @classmethod
    async def launch(cls, *_: object) -> FakeRun:
        run = cls()
        cls.made.append(run)
        return run

    async def until_ready(self) -> str:
        await self.readiness
        return self.process.log_of_start

    async def dies(self) -> bool:
        if self.dies_of_it:
            self.process.exited.set()
        return self.process.exited.is_set()

    async def death(self) -> ReplicaError:
        return self.cause

    async def sleep(self) -> None:
        await self._do("sleep")

    async def wake_up(self) -> None:
        await self._do("wake")

    async def _do(self, what: str) -> None:
        self.asked.append(what)
        if self.refusal is not None:
            raise self.refusal

    async def complete_one_token(self, _: float) -> None:
        if self.hangs or self.deaf:
            raise EngineNotAnsweringError("no token")

    async def answer_asleep(self, _: float) -> None:
        if self.deaf:
            raise EngineNotAnsweringError("no answer")


class FakeRouter:
    def __init__(self) -> None:
        self.told: list[str] = []
        self.on_admit: Callable[[], None] = lambda: None

    async def set_endpoint(self, index: int, port: int, max_num_seqs: int) -> None:
        self.told.append(f"endpoint {index} {port} {max_num_seqs}")

    async def admit(self, index: int) -> None:
        self.told.append(f"admit {index}")
        self.on_admit()
        await breathe()

    async def drain(self, index: int) -> None:
        self.told.append(f"drain {index}")

    async def eject(self, index: int) -> None:
        self.told.append(f"eject {index}")


class FakeDevice:
    """A shared device; ``told`` is in the order of what happens to processes and to it."""

    def __init__(self) -> None:
        self.mps = MpsStatus("Running")
        self.mends = True
        self.used_bytes = 0
        self.recovered: list[int] = []

    async def read(self) -> DeviceReading:
        return DeviceReading(None, None, memory_used_bytes=self.used_bytes)

    def engine_env(self, memory_fraction: float | None = None) -> dict[str, str]:
        return {}

    async def release(self, pids: Collection[int]) -> None:
        pass

    async def recover(self) -> None:
        self.recovered.append(sum(not run.process.ended_by for run in FakeRun.made))
        if self.mends:
            self.mps = replace(self.mps, state="Running", suspect_pids=())

    def fault(self, *suspect_pids: int) -> None:
        self.mps = MpsStatus("Faulted", "Xid 31", self.mps.faults + 1, suspect_pids)


class Rig:
    """A fleet with everything around it; ``now`` is its clock."""

    def __init__(self, *, can_sleep: bool = True) -> None:
        self.now = 0.0
        self.device = FakeDevice()
        engine = SimpleNamespace(can_sleep=can_sleep)
        self.router = FakeRouter()
        self.read: list[list[int]] = []
        self.taught: list[StartedReplica] = []
        witness = StartWitness(self.device.read, self.taught.append)
        self.looked_for_kills = 0
        host = SimpleNamespace(
            engine=engine,
            device=self.device,
            witness=witness,
            memory_limit=SimpleNamespace(look=self._look_for_kills),
        )
        self.fleet = Fleet(
            cast(EngineHost, host),
            self.router,
            clock=lambda: self.now,
            wake=lambda: None,
            last_reading=self._last_reading,
        )

    def _look_for_kills(self) -> None:
        self.looked_for_kills += 1

    async def _last_reading(self) -> None:
        self.read.append([one.index for one in self.fleet.running()])

    async def step(self, target: Target, in_flight: dict[int, int] | None = None) -> bool:
        settled = await self.fleet.step(target, in_flight or {})
        await breathe()
        return settled

    async def start_all(self, target: Target) -> None:
        for _ in range(8 * target.replicas):
            if await self.step(target):
                break
            for run in FakeRun.made:
                if not run.readiness.done():
                    run.readiness.set_result(None)
            await breathe()
        else:
            raise AssertionError(f"not settled: {self.phases()}")
        self.router.told.clear()

    def reasons(self) -> list[str | None]:
        replicas = [one for _, one in sorted(self.fleet.replicas.items())]
        return [one.problem.reason if one.problem else None for one in replicas]

    def told(self) -> list[tuple[str | None, int]]:
        """Each replica's problem and failures in a row."""
        failures = [one.failures for _, one in sorted(self.fleet.replicas.items())]
        return list(zip(self.reasons(), failures, strict=True))

    def phases(self) -> list[ReplicaPhase]:
        return [one.phase for _, one in sorted(self.fleet.replicas.items())]


async def breathe() -> None:
    """Lets every task run that can."""
    for _ in range(40):
        await asyncio.sleep(0)


def target(
    replicas: int, rotation: int | None = None, max_num_seqs: int = 32, *, asleep: bool = False
) -> Target:
    settings = Settings(max_num_seqs, 100 // replicas, None, Fraction(1, replicas))
    return Target(replicas, rotation or replicas, settings, asleep)


def fake_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fleets launch :class:`FakeRun` from now on, of which none has been made yet."""
    FakeRun.made = []
    monkeypatch.setattr(lifecycle, "EngineRun", cast(Any, FakeRun))
