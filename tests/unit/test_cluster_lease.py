"""Who leads: never two at a time, whatever is slow, lost, paused or skewed."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_operator.cluster import lease
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.lease import (
    DURATION_SECONDS,
    LOOK_SECONDS,
    MARGIN_SECONDS,
    RENEW_SECONDS,
    Election,
    Lease,
)
from slm_operator.cluster.permit import Permit

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
AWAY = KubeError(0, "Unreachable", "the API server does not answer")


@dataclass
class World:
    """An API server with at most one Lease, and the time."""

    seconds: float = 1000.0
    lease: dict[str, Any] | None = None
    version: int = 0
    writes: int = 0

    def store(self, obj: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.writes += 1
        obj["metadata"] = obj["metadata"] | {"resourceVersion": str(self.version)}
        self.lease = copy.deepcopy(obj)
        return obj

    @property
    def holder(self) -> str:
        assert self.lease is not None
        return str(self.lease["spec"]["holderIdentity"])


@dataclass
class Connection:
    world: World
    away: bool = False
    loses_answers: bool = False
    odd: Any = None
    """What something else answers in the API server's place."""

    async def get(self, api: str, kind: str, name: str, namespace: str) -> Any:
        self._arrive()
        if self.odd is not None:
            return self.odd
        if self.world.lease is None:
            raise KubeError(404, "NotFound", name)
        return copy.deepcopy(self.world.lease)

    async def create(self, obj: Any) -> Any:
        self._arrive()
        if self.world.lease is not None:
            raise KubeError(409, "AlreadyExists", "it is there")
        return self._answer(self.world.store(obj))

    async def replace(self, obj: Any) -> Any:
        self._arrive()
        if self.world.lease is None:
            raise KubeError(404, "NotFound", "it is gone")
        if obj["metadata"]["resourceVersion"] != self.world.lease["metadata"]["resourceVersion"]:
            raise KubeError(409, "Conflict", "it has been modified")
        return self._answer(self.world.store(obj))

    def _arrive(self) -> None:
        if self.away:
            raise AWAY

    def _answer(self, obj: Any) -> Any:
        if self.loses_answers:
            raise AWAY
        return obj if self.odd is None else self.odd


@dataclass
class Process:
    world: World
    name: str
    clock_ahead_seconds: float = 0.0
    kube: Connection = field(init=False)
    permit: Permit = field(init=False)
    lease: Lease = field(init=False)

    def __post_init__(self) -> None:
        self.kube = Connection(self.world)
        self.permit = Permit(lambda: self.world.seconds)
        self.lease = Lease(
            self.kube,  # type: ignore[arg-type]
            self.permit,
            Election("default", "slm-operator", self.name),
            now=lambda: BEGIN + timedelta(seconds=self.world.seconds + self.clock_ahead_seconds),
            clock=lambda: self.world.seconds,
        )

    @property
    def look(self) -> Any:
        return self.lease.look


@pytest.fixture
def world() -> World:
    return World()


async def takeover_seconds(world: World, standby: Process) -> float:
    """How long the standby looks on before it leads."""
    began = world.seconds
    while not await standby.look():
        assert world.seconds < began + 60
        world.seconds += LOOK_SECONDS
    return world.seconds - began


async def test_the_first_leads_at_once_and_the_second_stands_by(world: World) -> None:
    a, b = Process(world, "a"), Process(world, "b")
    assert await a.look()
    assert not await b.look()
    assert (a.permit.holds, b.permit.holds, world.holder) == (True, False, "a")


async def test_a_leader_that_renews_leads_on_and_writes_nothing_more(world: World) -> None:
    a, b = Process(world, "a"), Process(world, "b")
    for _ in range(60):
        assert await a.look()
        assert not await b.look()
        world.seconds += RENEW_SECONDS
    assert (world.writes, a.permit.holds, b.permit.holds) == (60, True, False)


async def test_a_leader_that_is_gone_is_followed_after_the_lease_and_two_looks(
    world: World,
) -> None:
    a, b = Process(world, "a"), Process(world, "b")
    await a.look()
    await b.look()
    assert await takeover_seconds(world, b) <= DURATION_SECONDS + 2 * LOOK_SECONDS
    assert b.permit.epoch > a.permit.epoch
    assert world.lease is not None
    assert world.lease["spec"]["leaseTransitions"] == 1


async def test_a_leader_that_cannot_renew_stops_before_another_begins(world: World) -> None:
    a, b = Process(world, "a"), Process(world, "b")
    await a.look()
    await b.look()
    a.kube.away = True
    stopped = None
    while not await b.look():
        await a.look()
        if stopped is None and not a.permit.holds:
            stopped = world.seconds
        world.seconds += 0.5
    assert stopped is not None
    assert world.seconds - stopped >= MARGIN_SECONDS - 0.5


async def test_a_former_leader_finds_the_lease_taken_and_leaves_it(world: World) -> None:
    a, b = Process(world, "a"), Process(world, "b")
    await a.look()
    await takeover_seconds(world, b)
    writes = world.writes
    assert not await a.look()
    assert (a.permit.holds, world.writes, world.holder) == (False, writes, "b")


async def test_keep_returns_without_a_call_when_the_time_is_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = Process(world, "a")
    await a.look()

    async def pause(_: float) -> None:
        world.seconds += DURATION_SECONDS

    monkeypatch.setattr("slm_operator.cluster.lease.asyncio.sleep", pause)
    a.kube.away = True
    await a.lease.keep()
    assert world.writes == 1


async def test_a_renewal_whose_answer_was_lost_is_known_by_its_holder(world: World) -> None:
    a = Process(world, "a")
    await a.look()
    a.kube.loses_answers = True
    assert not await a.look()
    a.kube.loses_answers = False
    assert not await a.look(), "the version has moved on"
    assert a.permit.holds
    assert await a.look()


@pytest.mark.parametrize("odd", [{"status": "maintenance"}, {"metadata": {}}, {"spec": ["no"]}])
async def test_an_answer_that_is_no_lease_is_an_outage_to_leader_and_standby(
    world: World, odd: dict[str, Any]
) -> None:
    a, b = Process(world, "a"), Process(world, "b")
    await a.look()
    a.kube.odd = b.kube.odd = odd
    assert not await a.look()
    assert not await b.look()
    assert a.permit.holds
    a.kube.odd = b.kube.odd = None
    assert not await a.look(), "the version has moved on"
    assert await a.look()
    assert not await b.look()


async def test_a_released_lease_is_taken_at_once(world: World) -> None:
    a, b = Process(world, "a"), Process(world, "b")
    await a.look()
    await b.look()
    await a.lease.release()
    assert not a.permit.holds
    assert await b.look()
    await a.lease.release()
    assert world.holder == "b"


async def test_a_lease_is_released_though_its_last_renewal_was_broken_off(world: World) -> None:
    a, b = Process(world, "a"), Process(world, "b")
    await a.look()
    await b.look()
    a.kube.loses_answers = True
    assert not await a.look()
    a.kube.loses_answers = False
    await a.lease.release()
    assert await b.look()


async def test_a_deleted_lease_is_not_taken_before_its_holder_can_have_noticed(
    world: World,
) -> None:
    a, b = Process(world, "a"), Process(world, "b")
    await a.look()
    await b.look()
    world.lease = None
    assert not await b.look()
    await a.look()
    assert not a.permit.holds
    assert await takeover_seconds(world, b) <= DURATION_SECONDS + LOOK_SECONDS
    assert b.permit.epoch > a.permit.epoch


async def test_epochs_rise_although_clocks_differ(world: World) -> None:
    a, b = Process(world, "a", clock_ahead_seconds=3600), Process(world, "b")
    await a.look()
    await takeover_seconds(world, b)
    assert b.permit.epoch > a.permit.epoch


async def test_a_lease_that_somebody_emptied_is_free(world: World) -> None:
    world.store({"metadata": {"name": "slm-operator"}, "spec": {}})
    assert await Process(world, "a").look()


STEP = st.tuples(
    st.sampled_from("abc"),
    st.sampled_from(["look", "look", "look", "away", "lossy", "back", "restart"]),
    st.sampled_from([0.0, 0.3, 1.0, 2.0, 5.0, 30.0]),
)


@settings(deadline=None)
@given(st.lists(STEP, max_size=60), st.lists(st.floats(-100, 100), min_size=3, max_size=3))
async def test_there_are_never_two_leaders(
    steps: list[tuple[str, str, float]], skews: list[float]
) -> None:
    """Whoever does not look is paused: its permit goes by a clock that does not stop."""
    world = World()
    processes = {n: Process(world, n, skew) for n, skew in zip("abc", skews, strict=True)}
    epoch = 0
    for number, (name, what, pause) in enumerate(steps):
        process = processes[name]
        if what == "look":
            if await process.look():
                assert process.permit.epoch >= epoch
                epoch = process.permit.epoch
        elif what == "restart":
            processes[name] = Process(world, f"{name}{number}", process.clock_ahead_seconds)
        else:
            process.kube.away, process.kube.loses_answers = what == "away", what == "lossy"
        assert sum(p.permit.holds for p in processes.values()) <= 1
        world.seconds += pause
        assert sum(p.permit.holds for p in processes.values()) <= 1


async def test_a_leader_whose_renewals_fail_in_an_unknown_way_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken(Lease):
        def __init__(self) -> None:
            pass

        async def keep(self) -> None:
            raise ValueError("a proxy's page instead of JSON")

    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    await lease._keep(Broken())
    assert ended == [os.EX_TEMPFAIL]
