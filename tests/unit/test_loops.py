"""A service's loop: what begins it, wakes it and ends it, and that its end waits for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
import pytest_asyncio

from builders import pack
from slm_operator import loops as subject
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.packs import Packs
from slm_operator.decide.snapshot import Pack
from slm_operator.gate import Gate, waiting_for_others
from slm_operator.loops import Loops
from slm_operator.metrics import Metrics


class Recorder:
    """Stands for the controller; ``ends`` are the answers to the looks at an ended service."""

    def __init__(self) -> None:
        self.passes: list[str] = []
        self.ended: list[str] = []
        self.delay = 3600.0
        self.fault: Exception | None = None
        self.ends: list[bool | KubeError] = []
        self.hangs = False
        self.forgotten: list[str] = []
        self.let_go_of: list[tuple[str, bool]] = []
        """Each with whether its objects stay."""
        self.remembered: set[str] = set()
        self.slow: set[str] = set()
        """UIDs of services whose passes wait for an agent."""

    def remembers(self, uid: str) -> bool:
        return uid in self.remembered

    def forget(self, uid: str) -> None:
        self.forgotten.append(uid)

    async def reconcile(self, obj: Any, packs: Iterable[Pack]) -> float:
        self.passes.append(f"{obj['metadata']['uid']}/{obj['metadata']['generation']}")
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        if self.hangs:
            await asyncio.Event().wait()
        if obj["metadata"]["uid"] in self.slow:
            with waiting_for_others():
                await asyncio.sleep(0.05)
            return 0.0
        return self.delay

    async def finalize(self, obj: Any, packs: Iterable[Pack]) -> bool:
        self.ended.append(obj["metadata"]["uid"])
        answer = self.ends.pop(0) if self.ends else False
        if isinstance(answer, KubeError):
            raise answer
        return answer

    async def let_go(self, obj: Any, *, orphaned: bool) -> None:
        self.let_go_of.append((obj["metadata"]["uid"], orphaned))


class World:
    def __init__(self) -> None:
        self.controller, self.metrics = Recorder(), Metrics()
        self.packs = Packs(lambda *owner: self.loops.wake(*owner))
        self.loops = Loops(self.controller, self.packs, self.metrics)  # type: ignore[arg-type]

    async def settle(self) -> None:
        """Until nothing runs but what waits for a time."""
        for _ in range(50):
            await asyncio.sleep(0)


def service(uid: str = "a", generation: int = 1, **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "chat", "namespace": "default", "uid": uid, "generation": generation}
        | metadata
    }


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "ENDING_PAUSES_SECONDS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(subject, "FAULT_SECONDS", 0.0)


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.loops.close()


async def test_a_service_is_looked_at_at_once_and_again_when_something_changes(
    world: World,
) -> None:
    world.loops.put(service())
    await world.settle()
    assert world.controller.passes == ["a/1"]
    world.loops.put(service(generation=2))
    await world.settle()
    world.loops.wake("default", "chat")
    world.loops.wake("default", "nobody")
    await world.settle()
    assert world.controller.passes == ["a/1", "a/2", "a/2"]


async def test_the_versions_of_services_are_told_of_one_namespace_or_of_all(world: World) -> None:
    world.loops.put(service("a", resourceVersion="3"))
    world.loops.put(service("b", namespace="other", resourceVersion="5"))
    assert world.loops.versions() == {"a": 3, "b": 5}
    assert world.loops.versions("other") == {"b": 5}
    assert world.loops.versions("nobody's") == {}


async def test_a_fault_of_the_operator_is_tried_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.controller.fault = RuntimeError("a bug")
    world.loops.put(service())
    await asyncio.sleep(0.05)
    assert world.controller.passes == ["a/1", "a/1"]
    assert "a bug" in caplog.text
    counted = world.metrics.registry.get_sample_value
    assert counted("slm_operator_reconcile_failures_total", {"reason": "InternalError"}) == 1


async def test_the_lag_is_the_time_from_the_first_change_to_the_begin_of_the_pass(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter((10.0, 10.0, 20.0, 20.5))
    monkeypatch.setattr(subject, "_clock", lambda: next(clock))
    world.loops.put(service())
    await world.settle()
    world.loops.wake("default", "chat")
    world.loops.wake("default", "chat")
    await world.settle()
    counted = world.metrics.registry.get_sample_value
    assert counted("slm_operator_reconcile_lag_seconds_count") == 2
    assert counted("slm_operator_reconcile_lag_seconds_sum") == 0.5


async def test_services_that_wait_for_their_turn_are_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.loops, "_gate", Gate(at_a_time=1, patience_seconds=60))
    world.controller.hangs = True
    for uid in ("a", "b", "c"):
        world.loops.put(service(uid) | {"metadata": service(uid)["metadata"] | {"name": uid}})
    await world.settle()
    assert world.metrics.registry.get_sample_value("slm_operator_reconcile_waiting") == 2


async def test_an_older_object_than_before_is_taken_for_restored_and_all_is_forgotten(
    world: World,
) -> None:
    for version, forgotten in (("9", []), ("9", []), ("10", []), ("9", ["a"])):
        world.loops.put(service(resourceVersion=version))
        assert world.controller.forgotten == forgotten
    await world.settle()
    assert world.controller.passes


async def test_a_status_is_kept_only_until_the_controller_has_it(world: World) -> None:
    world.controller.remembered = {"a"}
    world.loops.put(service() | {"status": {"packs": 1}})
    world.loops.put(service("b", name="b") | {"status": {"packs": 1}})
    await world.settle()
    assert world.loops._by_uid["a"].status == ""
    assert world.loops._by_uid["b"].status == '{"packs": 1}'


async def test_who_owns_which_field_is_not_kept(world: World) -> None:
    obj = service(managedFields=["much"])
    world.loops.put(obj)
    assert "managedFields" not in obj["metadata"]


async def test_a_service_that_is_gone_is_ended_and_forgotten(world: World) -> None:
    world.loops.put(service())
    await world.settle()
    world.loops.remove("a")
    assert world.loops.versions() == {}
    await asyncio.sleep(0.05)
    world.loops.wake("default", "chat")
    await world.settle()
    assert (world.controller.passes, world.controller.ended) == (["a/1"], ["a"])
    assert not world.loops._by_name


async def test_a_service_that_another_finalizer_holds_is_ended_once_and_not_begun_again(
    world: World,
) -> None:
    world.loops.put(service(deletionTimestamp="now"))
    await world.settle()
    world.loops.put(service(generation=2, deletionTimestamp="now"))
    await world.settle()
    assert (world.controller.passes, world.controller.ended) == ([], ["a"])
    world.loops.remove("a")
    assert not world.loops._by_name


@pytest.mark.parametrize("uids", [["a"], ["a", "of the same name"]], ids=["alone", "followed"])
async def test_a_service_may_be_gone_in_the_turn_in_which_its_loop_ends(
    world: World, uids: list[str]
) -> None:
    faults: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
    for uid in uids:
        world.loops.put(service(uid, deletionTimestamp="now"))
    task = world.loops._by_uid["a"].task
    assert task is not None
    while not task.done():
        await asyncio.sleep(0)
    world.loops.remove("a")
    await world.settle()
    assert faults == []
    assert [len(loops) for loops in world.loops._by_name.values()] == [1] * (len(uids) - 1)


async def test_what_shall_be_orphaned_stays(world: World) -> None:
    world.loops.put(service(deletionTimestamp="now", finalizers=["orphan"]))
    world.loops.remove("a")
    await asyncio.sleep(0.05)
    assert (world.controller.passes, world.controller.ended) == ([], [])
    assert world.controller.let_go_of == [("a", True)]


async def test_the_end_looks_again_until_nothing_is_left(world: World) -> None:
    world.controller.ends = [True, True, False, True]
    world.loops.put(service(deletionTimestamp="now"))
    await asyncio.sleep(0.05)
    assert world.controller.ended == ["a", "a", "a"]


async def test_the_end_is_given_up_when_the_api_server_refuses_and_garbage_collection_has_it(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.controller.ends = [KubeError(403, "Forbidden", "not allowed")] * 9
    world.loops.put(service())
    world.loops.remove("a")
    await asyncio.sleep(0.05)
    assert world.controller.ended == ["a", "a", "a"]
    assert "default/chat: removing what it owned: Forbidden" in caplog.text
    assert world.controller.let_go_of == [("a", False)]
    assert not world.loops._by_name


async def test_a_service_of_the_same_name_begins_when_the_former_has_ended(world: World) -> None:
    world.controller.ends = [True, False]
    world.loops.put(service())
    await world.settle()
    world.loops.remove("a")
    world.loops.put(service("b"))
    await asyncio.sleep(0.05)
    assert world.controller.passes == ["a/1", "b/1"]
    assert world.controller.ended == ["a", "a"]
    assert world.loops.versions().keys() == {"b"}


async def test_closing_stops_a_pass_that_waits_and_ends_no_service(world: World) -> None:
    world.controller.hangs = True
    world.loops.put(service())
    await world.settle()
    await asyncio.wait_for(world.loops.close(), 5)
    assert (world.controller.passes, world.controller.ended) == (["a/1"], [])


def test_a_pack_belongs_to_the_service_alone_that_controls_it() -> None:
    assert pack(owner_uid="a").belongs_to("a")
    assert not pack(owner_uid="a").belongs_to("b")
    assert not pack().belongs_to("b")


async def test_a_change_does_not_wait_among_services_that_are_only_looked_at_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(at_a_time=1, routine_at_a_time=1, patience_seconds=60)
    monkeypatch.setattr(world.loops, "_gate", gate)
    world.loops.put(service("changed", name="changed"))
    await world.settle()
    world.controller.delay = 0.0
    world.loops.put(service("routine", name="routine"))
    await world.settle()
    world.controller.hangs = True
    async with asyncio.timeout(20):
        while len(world.controller.passes) < 3:
            await asyncio.sleep(0)
    await world.settle()
    world.loops.put(service("changed", 2, name="changed"))
    await world.settle()
    assert world.controller.passes[-1] == "changed/2"


async def test_services_whose_agents_are_slow_do_not_hold_up_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.loops, "_gate", Gate(at_a_time=1, patience_seconds=0.04))
    world.controller.slow = {f"slow{number}" for number in range(20)}
    for uid in world.controller.slow:
        world.loops.put(service(uid, name=uid))
    world.loops.put(service("quick", name="quick"))
    async with asyncio.timeout(20):
        while len(set(world.controller.passes)) < 21 or len(world.controller.passes) < 60:
            await asyncio.sleep(0.01)
    before = len(world.controller.passes)
    world.loops.put(service("quick", 2, name="quick"))
    async with asyncio.timeout(20):
        while "quick/2" not in world.controller.passes:
            await asyncio.sleep(0)
    assert world.controller.passes.index("quick/2") - before <= 2
