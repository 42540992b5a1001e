"""The fleet over fake engine processes: failures, races, and what the router is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import pytest

from slm_worker.engine.client import EngineNotAnsweringError
from slm_worker.replicas import fleet as fleet_module
from slm_worker.replicas.fleet import DRAIN_SECONDS, Fleet
from slm_worker.replicas.health import IDLE_PROBE_SECONDS
from slm_worker.replicas.planner import Settings, Target
from slm_worker.replicas.replica import EngineHost, ReplicaError
from slm_worker.wire import ReplicaPhase


class FakeProcess:
    def __init__(self) -> None:
        self.pid = 2**22  # above what the kernel gives, so that nobody is pinned by it
        self.exited = asyncio.Event()
        self.ended_by: list[str] = []

    async def wait(self) -> int:
        await self.exited.wait()
        return 1

    async def stop(self) -> None:
        self.ended_by.append("stop")
        self.exited.set()

    async def kill(self) -> None:
        self.ended_by.append("kill")
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

    @classmethod
    async def launch(cls, *_: object) -> FakeRun:
        run = cls()
        cls.made.append(run)
        return run

    async def until_ready(self) -> None:
        await self.readiness

    async def death(self) -> ReplicaError:
        return ReplicaError("EngineExited", "it ended")

    async def complete_one_token(self, _: float) -> None:
        if self.hangs:
            raise EngineNotAnsweringError("no token")


class FakeRouter:
    def __init__(self) -> None:
        self.told: list[str] = []
        self.on_admit: Callable[[], None] = lambda: None

    async def set_endpoint(self, index: int, port: int, max_in_flight: int) -> None:
        self.told.append(f"endpoint {index} {port} {max_in_flight}")

    async def admit(self, index: int) -> None:
        self.told.append(f"admit {index}")
        self.on_admit()
        await breathe()

    async def drain(self, index: int) -> None:
        self.told.append(f"drain {index}")

    async def eject(self, index: int) -> None:
        self.told.append(f"eject {index}")


class Rig:
    """A fleet with everything around it; ``now`` is its clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.router = FakeRouter()
        self.read: list[list[int]] = []
        self.fleet = Fleet(
            cast(EngineHost, None),
            self.router,
            clock=lambda: self.now,
            wake=lambda: None,
            last_reading=self._last_reading,
        )

    async def _last_reading(self) -> None:
        self.read.append([one.index for one in self.fleet.running()])

    async def step(self, target: Target, in_flight: dict[int, int] | None = None) -> bool:
        settled = await self.fleet.step(target, in_flight or {})
        await breathe()
        return settled

    async def start_all(self, target: Target) -> None:
        for _ in range(target.replicas):
            await self.step(target)
            FakeRun.made[-1].readiness.set_result(None)
            await breathe()
        assert await self.step(target)
        self.router.told.clear()

    def phases(self) -> list[ReplicaPhase]:
        return [one.phase for _, one in sorted(self.fleet.replicas.items())]


async def breathe() -> None:
    """Lets every task run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


def target(replicas: int, rotation: int | None = None, max_num_seqs: int = 32) -> Target:
    settings = Settings(max_num_seqs, 100 // replicas, None, Fraction(1, replicas))
    return Target(replicas, rotation or replicas, settings)


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Rig]:
    FakeRun.made = []
    monkeypatch.setattr(fleet_module, "EngineRun", cast(Any, FakeRun))
    rig = Rig()
    yield rig
    await rig.fleet.close()


async def test_a_ready_replica_is_routed_with_a_little_more_than_its_batch(rig: Rig) -> None:
    assert not await rig.step(target(1))
    FakeRun.made[0].readiness.set_result(None)
    await breathe()
    assert await rig.step(target(1))
    assert rig.router.told == ["endpoint 0 9000 34", "admit 0"]


async def test_a_failed_start_waits_longer_each_time(rig: Rig) -> None:
    waits = []
    for failure in range(4):
        await rig.step(target(1))
        assert len(FakeRun.made) == failure + 1
        FakeRun.made[-1].readiness.set_exception(ReplicaError("OutOfMemory", "too big"))
        await breathe()
        assert rig.phases() == [ReplicaPhase.FAILED]
        assert FakeRun.made[-1].process.ended_by == ["kill"]
        one = rig.fleet.replicas[0]
        waits.append(one.retry_at_seconds - rig.now)
        await rig.step(target(1))
        assert len(FakeRun.made) == failure + 1, "not before its time"
        rig.now = one.retry_at_seconds
    assert waits == [1, 2, 4, 8]
    assert one.problem is not None
    assert (one.problem.reason, one.problem.since_seconds) == ("OutOfMemory", 0.0)


async def test_other_settings_are_tried_at_once_with_a_fresh_backoff(rig: Rig) -> None:
    await rig.step(target(1))
    FakeRun.made[-1].readiness.set_exception(ReplicaError("OutOfMemory", "too big"))
    await breathe()
    await rig.step(target(1, max_num_seqs=8))
    one = rig.fleet.replicas[0]
    assert (one.phase, one.failures, one.problem) == (ReplicaPhase.STARTING, 0, None)


async def test_a_long_healthy_time_forgets_earlier_failures(rig: Rig) -> None:
    await rig.start_all(target(1))
    rig.fleet.replicas[0].failures = 5
    rig.now = 1000.0
    FakeRun.made[0].process.exited.set()
    await breathe()
    assert rig.fleet.replicas[0].failures == 1


async def test_a_death_ejects_at_once_and_frees_the_memory_before_it_fails(rig: Rig) -> None:
    await rig.start_all(target(2))
    FakeRun.made[1].process.exited.set()
    await breathe()
    assert rig.router.told == ["eject 1"]
    assert rig.phases() == [ReplicaPhase.READY, ReplicaPhase.FAILED]
    assert FakeRun.made[1].process.ended_by == ["kill"]


async def test_a_death_while_it_is_admitted_does_not_stay_in_rotation(rig: Rig) -> None:
    await rig.step(target(1))
    run = FakeRun.made[0]
    run.readiness.set_result(None)
    await breathe()
    rig.router.on_admit = run.process.exited.set
    assert not await rig.step(target(1))
    assert rig.router.told[-1] == "eject 0"
    assert not rig.fleet.replicas[0].admitted


async def test_counters_are_read_a_last_time_before_a_drained_replica_stops(rig: Rig) -> None:
    await rig.start_all(target(2))
    await rig.step(target(1))
    assert rig.router.told == ["drain 1"]
    await rig.step(target(1), {1: 3})
    assert rig.read == [], "requests are still in flight"
    await rig.step(target(1))
    assert rig.read == [[0, 1]]
    assert FakeRun.made[1].process.ended_by == ["stop"]
    assert 1 not in rig.fleet.replicas


async def test_a_drain_ends_after_its_time(rig: Rig) -> None:
    await rig.start_all(target(2))
    await rig.step(target(1), {1: 3})
    rig.now += DRAIN_SECONDS
    await rig.step(target(1), {1: 3})
    assert FakeRun.made[1].process.ended_by == ["stop"]


async def test_a_newer_plan_ends_a_start(rig: Rig) -> None:
    await rig.step(target(2))
    await rig.step(target(1))
    assert FakeRun.made[0].process.ended_by == ["stop"]
    await rig.step(target(1))
    assert rig.phases() == [ReplicaPhase.STARTING]


async def test_an_engine_that_completes_no_token_is_killed_as_hung(rig: Rig) -> None:
    await rig.start_all(target(2))
    FakeRun.made[0].hangs = True
    rig.now = IDLE_PROBE_SECONDS
    await rig.step(target(2))
    assert rig.phases() == [ReplicaPhase.READY, ReplicaPhase.READY], "one failure is no proof"
    await rig.step(target(2))
    one = rig.fleet.replicas[0]
    assert one.phase is ReplicaPhase.FAILED
    assert one.problem is not None and one.problem.reason == "Hung"
    assert FakeRun.made[0].process.ended_by == ["kill"]
    assert rig.router.told[0] == "eject 0"


async def test_the_end_ends_every_process(rig: Rig) -> None:
    await rig.start_all(target(2))
    await rig.fleet.close()
    assert [run.process.ended_by for run in FakeRun.made] == [["stop"], ["stop"]]
    assert rig.fleet.running() == []
