"""Errors that nobody expects leave no replica in a phase that it never gets out of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, NoReturn

import pytest

from fake_fleet import FakeProcess, FakeRun, Rig, breathe, fake_engines, target
from slm_worker.replicas import lifecycle
from slm_worker.wire import ReplicaPhase

FAILED, READY = ReplicaPhase.FAILED, ReplicaPhase.READY


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    fake_engines(monkeypatch)
    monkeypatch.setattr(lifecycle, "END_AGAIN_SECONDS", 0.0)
    rig = Rig()
    yield rig
    await rig.fleet.close()


async def fails(*_: object) -> NoReturn:
    raise AttributeError("a mistake")


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (FakeRun, "launch"),
        (FakeRun, "until_ready"),
        ("slm_worker.replicas.witness.StartWitness", "_memory_used_bytes"),
        ("slm_worker.replicas.witness.StartWitness", "ready"),
    ],
)
async def test_a_start_in_which_the_agent_fails_is_tried_again_after_its_backoff(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, where: Any, name: str
) -> None:
    with monkeypatch.context() as patch:
        if isinstance(where, str):
            patch.setattr(f"{where}.{name}", fails)
        else:
            patch.setattr(where, name, fails)
        await rig.step(target(1))
        for run in FakeRun.made:
            run.readiness.set_result(None)
        await breathe()
    assert (rig.phases(), rig.reasons()) == ([FAILED], ["AgentError"])
    assert all(run.process.ended_by == ["kill"] for run in FakeRun.made)
    assert rig.fleet.replicas[0].retry_at_seconds == rig.now + 1
    rig.now += 1
    await rig.start_all(target(1))
    assert (rig.phases(), rig.reasons()) == ([READY], [None])


async def test_a_death_that_cannot_be_explained_is_a_death(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.start_all(target(1))
    monkeypatch.setattr(FakeRun, "death", fails)
    FakeRun.made[0].process.exited.set()
    await breathe()
    assert (rig.phases(), rig.reasons()) == ([FAILED], ["AgentError"])


@pytest.mark.parametrize("failing", ["read", "recover"])
async def test_a_restart_of_the_set_in_which_the_device_fails_ends_all_the_same(
    rig: Rig, failing: str
) -> None:
    await rig.start_all(target(2))
    recovered = rig.device.recover
    setattr(rig.device, failing, fails)
    rig.device.fault()
    await rig.step(target(2))
    assert rig.phases() == [FAILED, FAILED]
    assert [run.process.ended_by for run in FakeRun.made] == [["kill"], ["kill"]]
    rig.device.recover = recovered  # type: ignore[method-assign]
    rig.device.read = type(rig.device)().read  # type: ignore[method-assign]
    await rig.step(target(2))
    assert len(FakeRun.made) == 2, "not before the backoff"
    rig.now += 1
    await rig.step(target(2))  # the device is still faulted: once more
    rig.now += 2
    await rig.start_all(target(2))
    assert rig.phases() == [READY, READY]


def failing_once(end: Callable[..., Any]) -> Callable[..., Any]:
    times: list[object] = []

    async def either(process: FakeProcess) -> None:
        times.append(process)
        if len(times) == 1:
            raise OSError("no more open files")
        await end(process)

    return either


async def test_an_end_that_goes_wrong_is_tried_again_before_the_replica_starts_anew(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.start_all(target(1))
    monkeypatch.setattr(FakeProcess, "kill", failing_once(FakeProcess.kill))
    FakeRun.made[0].process.exited.set()
    await breathe()
    assert rig.phases() == [FAILED]
    assert FakeRun.made[0].process.ended_by == ["kill"]


async def test_a_stop_that_goes_wrong_is_tried_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.start_all(target(2))
    monkeypatch.setattr(FakeProcess, "stop", failing_once(FakeProcess.stop))
    for _ in range(4):
        await rig.step(replace(target(2), replicas=1, rotation=1))
    assert FakeRun.made[1].process.ended_by == ["stop"]
    assert rig.phases() == [READY]


async def test_a_router_that_fails_in_an_unknown_way_keeps_no_process_alive(rig: Rig) -> None:
    await rig.start_all(target(2))
    rig.router.eject = fails  # type: ignore[method-assign, assignment]
    rig.device.fault()
    await rig.step(target(2))
    assert rig.phases() == [FAILED, FAILED]
    assert [run.process.ended_by for run in FakeRun.made] == [["kill"], ["kill"]]
