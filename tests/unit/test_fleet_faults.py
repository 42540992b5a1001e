"""The fleet after a fatal fault of the GPU: all end, the device comes back, all start again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from fake_fleet import FakeRun, Rig, breathe, fake_engines, target
from slm_worker.replicas.faults import FAULTS_UNTIL_SET_APART
from slm_worker.replicas.replica import ReplicaError
from slm_worker.wire import ReplicaPhase


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    fake_engines(monkeypatch)
    rig = Rig()
    yield rig
    await rig.fleet.close()


async def test_after_a_fault_all_leave_the_router_end_and_start_one_by_one(rig: Rig) -> None:
    await rig.start_all(target(2))
    rig.device.fault()
    assert not await rig.step(target(2))
    assert sorted(rig.router.told) == ["eject 0", "eject 1"]
    assert [run.process.ended_by for run in FakeRun.made] == [["kill"], ["kill"]]
    assert rig.device.recovered == [0], "once nobody runs any more"
    assert rig.phases() == [ReplicaPhase.FAILED] * 2
    assert rig.reasons() == ["MpsFault"] * 2
    await rig.step(target(2))
    assert len(FakeRun.made) == 2, "not before the backoff"
    rig.now += 1.0
    await rig.step(target(2))
    assert rig.phases() == [ReplicaPhase.STARTING, ReplicaPhase.FAILED]
    await rig.start_all(target(2))
    assert rig.reasons() == [None, None]


async def test_a_fault_also_ends_who_starts_and_who_sleeps(rig: Rig) -> None:
    await rig.start_all(target(3, 1, asleep=True))
    FakeRun.made[0].process.exited.set()
    await breathe()
    rig.now += 1.0
    await rig.step(target(3, 1, asleep=True))
    assert FakeRun.made[1].asked == ["sleep", "wake"], "it stands in first"
    await rig.step(target(3, 1, asleep=True))
    assert rig.phases() == [ReplicaPhase.STARTING, ReplicaPhase.READY, ReplicaPhase.ASLEEP]
    rig.device.fault()
    await rig.step(target(3, 1, asleep=True))
    assert all("kill" in run.process.ended_by for run in FakeRun.made)
    assert rig.phases() == [ReplicaPhase.FAILED] * 3


async def test_an_engine_that_ends_by_a_fault_takes_the_others_along(rig: Rig) -> None:
    await rig.start_all(target(2))
    FakeRun.made[1].cause = ReplicaError("MpsFault", "MPS client terminated")
    FakeRun.made[1].process.exited.set()
    await breathe()
    assert FakeRun.made[0].process.ended_by == ["kill"]
    assert rig.device.recovered == [0]
    assert rig.reasons() == ["MpsFault"] * 2


async def test_an_engine_that_mps_refuses_leaves_those_that_serve_alone(rig: Rig) -> None:
    await rig.start_all(target(2))
    FakeRun.made[1].cause = ReplicaError("MpsNotReady", "Error 807")
    FakeRun.made[1].process.exited.set()
    await breathe()
    assert rig.phases() == [ReplicaPhase.READY, ReplicaPhase.FAILED]
    assert rig.device.recovered == []


async def test_when_mps_refuses_a_lone_engine_the_device_is_brought_back(rig: Rig) -> None:
    await rig.step(target(1))
    FakeRun.made[0].readiness.set_exception(ReplicaError("MpsNotReady", "Error 807"))
    await breathe()
    assert rig.device.recovered == [0]


async def test_a_device_that_does_not_come_back_is_tried_again_with_backoff(rig: Rig) -> None:
    await rig.start_all(target(1))
    rig.device.mends = False
    rig.device.fault()
    tries = []
    for _ in range(40):
        await rig.step(target(1))
        tries.append(len(rig.device.recovered))
        rig.now += 0.5
    assert tries[0] == 1
    assert 4 <= tries[-1] <= 6, "at 0, 1, 3, 7 and 15 s"
    assert len(FakeRun.made) == 1, "nothing starts on a faulted device"


async def test_who_alone_is_suspected_again_and_again_is_set_apart(rig: Rig) -> None:
    for _ in range(FAULTS_UNTIL_SET_APART):
        await rig.start_all(target(2))
        culprit = rig.fleet.replicas[1].run
        assert culprit is not None
        rig.device.fault(culprit.process.pid)
        await rig.step(target(2))
        rig.now += 60.0
    for _ in range(4):
        await rig.step(target(2))
        if not FakeRun.made[-1].readiness.done():
            FakeRun.made[-1].readiness.set_result(None)
        await breathe()
    assert rig.phases() == [ReplicaPhase.READY, ReplicaPhase.SET_APART]
    assert rig.reasons() == [None, "SetApart"]
    assert not await rig.step(target(2)), "one that is missing is no settled pack"
    assert rig.fleet.replicas[0].admitted, "the rest serves"
    assert rig.fleet.replicas[0].failures == 0
    await rig.step(target(1))
    assert 1 not in rig.fleet.replicas, "another layout"


async def test_whose_own_kernel_failed_is_suspected_even_if_another_ended_first(rig: Rig) -> None:
    for _ in range(FAULTS_UNTIL_SET_APART):
        await rig.start_all(target(2))
        bystander, culprit = rig.fleet.replicas[0].run, rig.fleet.replicas[1].run
        assert isinstance(bystander, FakeRun) and isinstance(culprit, FakeRun)
        bystander.cause = ReplicaError("MpsFault", "MPS client terminated")
        culprit.cause = ReplicaError("DeviceFault", "an illegal memory access was encountered")
        bystander.process.exited.set()
        culprit.process.exited.set()
        await breathe()
        rig.now += 60.0
    await rig.step(target(2))
    assert rig.phases()[1] is ReplicaPhase.SET_APART
