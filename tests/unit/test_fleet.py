"""The fleet over fake engine processes: failures, races, and what the router is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from fake_fleet import FakeRun, Rig, breathe, fake_engines, target
from slm_worker.engine.client import EngineNotAnsweringError, SleepUnsupportedError
from slm_worker.replicas.health import IDLE_PROBE_SECONDS
from slm_worker.replicas.lifecycle import DRAIN_SECONDS
from slm_worker.replicas.replica import ReplicaError
from slm_worker.replicas.witness import StartWitness
from slm_worker.wire import ReplicaPhase


@pytest.fixture
def fake_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_engines(monkeypatch)


@pytest.fixture
async def rig(fake_runs: None) -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    await rig.fleet.close()


async def test_a_ready_replica_is_routed_with_its_batch(rig: Rig) -> None:
    assert not await rig.step(target(1))
    FakeRun.made[0].readiness.set_result(None)
    await breathe()
    assert await rig.step(target(1))
    assert rig.router.told == ["endpoint 0 9000 32", "admit 0"]


async def test_a_start_tells_what_it_took_of_the_device(rig: Rig) -> None:
    rig.device.used_bytes = 5
    await rig.step(target(1))
    rig.device.used_bytes = 12
    FakeRun.made[0].readiness.set_result(None)
    await breathe()
    assert [(one.held_bytes, one.weights_bytes) for one in rig.taught] == [(7, 5 * 2**29)]


async def test_each_pass_looks_whether_the_kernel_killed_a_process(rig: Rig) -> None:
    await rig.start_all(target(1))
    before = rig.looked_for_kills
    await rig.step(target(1))
    rig.device.fault()
    await rig.step(target(1))
    assert rig.looked_for_kills == before + 2


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


async def test_a_start_that_failed_beside_others_is_a_problem_only_once_it_fails_alone(
    rig: Rig,
) -> None:
    await rig.step(target(3))
    FakeRun.made[0].readiness.set_result(None)
    await breathe()
    await rig.step(target(3))
    assert len(FakeRun.made) == 3, "the others start together"
    for run in FakeRun.made[1:]:
        run.readiness.set_exception(ReplicaError("OutOfMemory", "too big"))
    await breathe()
    assert rig.phases() == [ReplicaPhase.READY, ReplicaPhase.FAILED, ReplicaPhase.FAILED]
    assert rig.told() == [(None, 0)] * 3
    rig.now += 1.0
    await rig.step(target(3))
    assert rig.phases() == [ReplicaPhase.READY, ReplicaPhase.STARTING, ReplicaPhase.FAILED]
    FakeRun.made[3].readiness.set_exception(ReplicaError("OutOfMemory", "too big"))
    await breathe()
    assert rig.told() == [(None, 0), ("OutOfMemory", 1), (None, 0)]


async def test_one_that_serves_and_ends_while_others_start_is_no_problem_either(rig: Rig) -> None:
    await rig.step(target(3))
    FakeRun.made[0].readiness.set_result(None)
    await breathe()
    await rig.step(target(3))
    FakeRun.made[0].cause = ReplicaError("OutOfMemory", "killed")
    FakeRun.made[0].process.exited.set()
    await breathe()
    assert rig.phases() == [ReplicaPhase.FAILED, *[ReplicaPhase.STARTING] * 2]
    assert rig.told() == [(None, 0)] * 3
    for run in FakeRun.made[1:]:
        run.readiness.set_result(None)
    await breathe()
    rig.now += 1.0
    await rig.step(target(3))
    FakeRun.made[3].readiness.set_result(None)
    await breathe()
    FakeRun.made[3].process.exited.set()
    await breathe()
    assert rig.told()[0] == ("EngineExited", 1), "now it was alone"


async def test_what_cannot_be_ended_keeps_nobody_else_from_ending(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails() -> None:
        raise RuntimeError("can't start new thread")

    await rig.start_all(target(2))
    monkeypatch.setattr(FakeRun.made[0].process, "stop", fails)
    await rig.fleet.close()
    assert FakeRun.made[1].process.ended_by == ["stop"]


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


async def test_a_start_that_a_plan_ends_as_it_succeeds_is_no_death(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def planned_meanwhile(*_: object) -> None:
        await rig.fleet.step(target(1), {})

    monkeypatch.setattr(StartWitness, "ready", planned_meanwhile)
    await rig.step(target(2))
    FakeRun.made[0].readiness.set_result(None)
    async with asyncio.timeout(10):
        while rig.phases():
            assert ReplicaPhase.READY not in rig.phases()
            await asyncio.sleep(0)
    assert FakeRun.made[0].process.ended_by == ["stop"]


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


async def test_a_replica_out_of_rotation_sleeps_and_joins_when_it_is_missed(rig: Rig) -> None:
    await rig.start_all(target(2, 1, asleep=True))
    assert rig.phases() == [ReplicaPhase.READY, ReplicaPhase.ASLEEP]
    assert FakeRun.made[1].asked == ["sleep"]
    await rig.step(target(2, 2, asleep=True))
    assert FakeRun.made[1].asked == ["sleep", "wake"]
    assert await rig.step(target(2, 2, asleep=True))
    assert rig.router.told[-1] == "admit 1"
    assert rig.fleet.starts == 2


async def test_an_engine_without_the_path_to_sleep_stays_awake_and_is_not_asked_again(
    rig: Rig,
) -> None:
    wanted = target(2, 1, asleep=True)
    await rig.step(wanted)
    FakeRun.made[0].readiness.set_result(None)
    await breathe()
    await rig.step(wanted)
    FakeRun.made[1].readiness.set_result(None)
    FakeRun.made[1].refusal = SleepUnsupportedError("POST /sleep was answered with 404")
    await breathe()
    for _ in range(4):
        await rig.step(wanted)
    assert await rig.step(wanted)
    assert FakeRun.made[1].asked == ["sleep"]
    assert "404" in rig.fleet.cannot_sleep
    assert rig.phases() == [ReplicaPhase.READY, ReplicaPhase.READY]
    assert rig.fleet.starts == 2, "nobody is restarted for it"


async def test_an_engine_that_knows_that_it_cannot_sleep_is_not_asked(fake_runs: None) -> None:
    rig = Rig(can_sleep=False)
    await rig.start_all(target(2, 1, asleep=True))
    assert FakeRun.made[1].asked == []
    assert not rig.fleet.replicas[1].settings.sleep_mode
    assert rig.fleet.cannot_sleep
    await rig.fleet.close()


async def test_an_engine_that_refuses_sleep_mode_at_its_start_is_started_without(rig: Rig) -> None:
    wanted = target(1, asleep=True)
    await rig.step(wanted)
    assert rig.fleet.replicas[0].settings.sleep_mode
    FakeRun.made[0].readiness.set_exception(ReplicaError("SleepUnsupported", "not here"))
    await breathe()
    rig.now += 1.0
    await rig.step(wanted)
    assert not rig.fleet.replicas[0].settings.sleep_mode
    assert rig.fleet.cannot_sleep == "not here"


@pytest.mark.parametrize("verb", ["sleep", "wake"])
@pytest.mark.parametrize("dies", [False, True], ids=["it lives on", "it dies of it"])
async def test_one_that_does_not_fall_asleep_or_wake_is_replaced(
    rig: Rig, verb: str, dies: bool
) -> None:
    wanted = target(2, 1, asleep=True)
    if verb == "wake":
        await rig.start_all(wanted)
        wanted = target(2, 2, asleep=True)
    else:
        await rig.start_all(target(2, 2, asleep=True))
    FakeRun.made[1].refusal = EngineNotAnsweringError("no answer")
    FakeRun.made[1].dies_of_it = dies
    for _ in range(3):
        await rig.step(wanted)
    assert rig.phases()[1] is ReplicaPhase.FAILED
    refusals = {"sleep": "SleepFailed", "wake": "WakeFailed"}
    assert rig.reasons() == [None, FakeRun.made[1].cause.reason if dies else refusals[verb]]
    assert FakeRun.made[1].process.ended_by == ["kill"]
    assert rig.phases()[0] is ReplicaPhase.READY, "the other serves on"


async def test_a_sleeper_that_dies_is_seen(rig: Rig) -> None:
    await rig.start_all(target(2, 1, asleep=True))
    FakeRun.made[1].process.exited.set()
    await breathe()
    assert rig.phases() == [ReplicaPhase.READY, ReplicaPhase.FAILED]


async def test_a_sleeper_is_not_asked_for_a_token(rig: Rig) -> None:
    await rig.start_all(target(2, 1, asleep=True))
    FakeRun.made[1].hangs = True
    for _ in range(4):
        rig.now += IDLE_PROBE_SECONDS
        await rig.step(target(2, 1, asleep=True))
    assert rig.phases() == [ReplicaPhase.READY, ReplicaPhase.ASLEEP]


@pytest.mark.parametrize("asleep", [False, True], ids=["awake", "asleep"])
async def test_a_replica_on_standby_that_hears_nothing_is_replaced(rig: Rig, asleep: bool) -> None:
    wanted = target(2, 1, asleep=asleep)
    await rig.start_all(wanted)
    FakeRun.made[1].deaf = True
    rig.now += IDLE_PROBE_SECONDS
    await rig.step(wanted)
    assert rig.phases()[1] is not ReplicaPhase.FAILED, "one failure is no proof"
    await rig.step(wanted)
    assert rig.phases() == [ReplicaPhase.READY, ReplicaPhase.FAILED]
    assert rig.reasons() == [None, "Hung"]
    assert FakeRun.made[1].process.ended_by == ["kill"]


async def test_a_doubt_about_a_sleeper_does_not_outlast_its_waking(rig: Rig) -> None:
    await rig.start_all(target(2, 1, asleep=True))
    FakeRun.made[1].deaf = True
    rig.now += IDLE_PROBE_SECONDS
    await rig.step(target(2, 1, asleep=True))
    FakeRun.made[1].deaf = False
    await rig.step(target(2, 2, asleep=True))
    FakeRun.made[1].hangs = True
    assert await rig.step(target(2, 2, asleep=True))
    await rig.step(target(2, 2, asleep=True))
    assert rig.phases() == [ReplicaPhase.READY, ReplicaPhase.READY], "its first probe is not due"


async def test_the_end_ends_every_process(rig: Rig) -> None:
    await rig.start_all(target(2))
    await rig.fleet.close()
    assert [run.process.ended_by for run in FakeRun.made] == [["stop"], ["stop"]]
    assert rig.fleet.running() == []
