"""What goes with the packs is applied where it changed, by whomever, and at rest not at all."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from typing import Any

import pytest

from builders import service
from owned_world import BUDGET, CHAT, FRONT, SECRET, SERVING, SLICE, World, controlled_by
from slm_operator.api.status import SLMServiceStatus
from slm_operator.cluster import owned as subject
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Object, Page
from slm_operator.render.children import disruption_budget


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "RESTORE_SECONDS", 0.0)


@pytest.fixture
async def world() -> World:
    """With a budget, a Service and a slice that were applied and shown."""
    made = World()
    assert len(await made.apply(BUDGET, FRONT, SLICE)) == 3
    for obj in (BUDGET, FRONT, SLICE):
        made.show(obj)
    assert await made.woken_now() == []
    return made


async def test_at_rest_nothing_is_written(world: World) -> None:
    assert await world.apply(BUDGET, FRONT, SLICE) == []
    assert len(await world.apply(BUDGET, FRONT, SLICE, also_unchanged=True)) == 3
    assert await world.woken_now() == []


@pytest.mark.parametrize("obj", [BUDGET, FRONT, SLICE])
async def test_what_somebody_deleted_is_made_again_alone_and_once(
    world: World, obj: Object
) -> None:
    world.owned.miss(world.server.lose(obj))
    assert await world.woken_now() == ["default/chat"]
    assert await world.apply(BUDGET, FRONT, SLICE) == [(obj["kind"], False)]
    world.show(obj)
    assert await world.woken_now() == []
    assert await world.apply(BUDGET, FRONT, SLICE) == []


async def test_what_somebody_took_out_of_sight_by_its_label_is_written_over(world: World) -> None:
    world.server.edit(BUDGET, manager="kubectl-label")
    before = world.server.stored["PodDisruptionBudget", CHAT.name]["metadata"]["uid"]
    world.owned.miss(before)
    assert await world.woken_now() == ["default/chat"]
    assert await world.apply(BUDGET, FRONT, SLICE) == [("PodDisruptionBudget", True)]
    world.show(BUDGET)
    assert await world.woken_now() == []
    assert await world.apply(BUDGET, FRONT, SLICE) == []
    assert world.server.stored["PodDisruptionBudget", CHAT.name]["metadata"]["uid"] == before


async def test_of_what_is_the_services_own_one_kind_can_go_alone(world: World) -> None:
    deleted = []

    async def delete(api: str, kind: str, *_: str, uid: str) -> None:
        deleted.append(kind)

    world.server.delete = delete  # type: ignore[method-assign, assignment]
    assert await world.owned.remove(CHAT.uid, CHAT.namespace, only="EndpointSlice")
    assert deleted == ["EndpointSlice"]


@pytest.mark.parametrize("obj", [BUDGET, FRONT, SLICE])
async def test_what_somebody_edited_is_written_over_alone_and_once(
    world: World, obj: Object
) -> None:
    world.server.edit(obj)
    world.show(obj)
    assert await world.woken_now() == ["default/chat"]
    assert await world.apply(BUDGET, FRONT, SLICE) == [(obj["kind"], True)]
    world.show(obj)
    assert await world.woken_now() == []
    assert await world.apply(BUDGET, FRONT, SLICE) == []


async def test_another_label_of_a_slice_is_noticed_though_it_is_no_new_generation(
    world: World,
) -> None:
    stored = world.server.stored["EndpointSlice", SLICE["metadata"]["name"]]["metadata"]
    stored["labels"] = stored["labels"] | {"kubernetes.io/service-name": "another"}
    world.show(SLICE)
    assert await world.woken_now() == ["default/chat"]


async def test_a_status_that_others_write_is_no_change(world: World) -> None:
    world.server.status(BUDGET)
    world.show(BUDGET)
    assert await world.woken_now() == []
    assert await world.apply(BUDGET, FRONT, SLICE) == []


async def test_an_edit_of_what_is_not_the_operators_costs_one_write(world: World) -> None:
    world.server.edit(FRONT, repr(FRONT))
    world.show(FRONT)
    assert await world.woken_now() == ["default/chat"]
    assert await world.apply(BUDGET, FRONT, SLICE) == [("Service", True)]
    assert await world.woken_now() == []


async def test_its_own_write_wakes_nobody_whenever_it_is_shown(world: World) -> None:
    more = disruption_budget(CHAT, 3)
    world.server.meanwhile = lambda: world.show(more)
    await world.apply(more, FRONT, SLICE)
    world.server.meanwhile = lambda: None
    assert await world.woken_now() == []
    await world.apply(disruption_budget(CHAT, 4), FRONT, SLICE)
    world.show(BUDGET)
    assert await world.woken_now() == []


async def test_an_edit_that_is_seen_before_the_answer_to_a_write_is_not_lost(world: World) -> None:
    more = disruption_budget(CHAT, 3)

    def edited() -> None:
        world.server.edit(more)
        world.show(more)

    world.server.meanwhile = edited
    await world.apply(more, FRONT, SLICE)
    world.server.meanwhile = lambda: None
    assert await world.woken_now() == ["default/chat"]
    assert await world.apply(more, FRONT, SLICE) == [("PodDisruptionBudget", True)]


async def test_a_deletion_that_is_seen_before_the_answer_to_a_write_is_not_lost(
    world: World,
) -> None:
    more = disruption_budget(CHAT, 3)
    world.server.meanwhile = lambda: world.owned.miss(world.server.lose(more))
    await world.apply(more, FRONT, SLICE)
    world.server.meanwhile = lambda: None
    assert await world.woken_now() == ["default/chat"]
    assert await world.apply(more, FRONT, SLICE) == [("PodDisruptionBudget", False)]


async def test_a_watch_that_shows_nothing_costs_nothing() -> None:
    world = World()
    await world.apply(BUDGET, FRONT)
    for _ in range(3):
        assert await world.woken_now() == []
        assert await world.apply(BUDGET, FRONT) == []


async def test_a_watch_that_lags_costs_one_write(world: World) -> None:
    old = {"metadata": dict(world.server.stored["Service", "chat"]["metadata"])}
    world.server.edit(FRONT)
    world.show(FRONT)
    await world.woken_now()
    assert await world.apply(FRONT) == [("Service", True)]
    world.owned.see(("v1", "Service", "chat"), old)
    await world.woken_now()
    assert await world.apply(FRONT) == [("Service", True)]
    assert await world.woken_now() == []
    assert await world.apply(FRONT) == []


async def test_what_failed_is_tried_again(world: World) -> None:
    more = disruption_budget(CHAT, 3)
    world.server.refusal = KubeError(403, "Forbidden", "not allowed")
    with pytest.raises(KubeError):
        await world.apply(more)
    world.server.refusal = None
    assert await world.apply(more) == [("PodDisruptionBudget", True)]


FOREIGN = [
    pytest.param({}, id="of nobody"),
    pytest.param({"ownerReferences": None}, id="without owner references"),
    pytest.param(
        {"ownerReferences": [{"kind": "SLMService", "name": "chat", "uid": CHAT.uid}]},
        id="that the service owns and does not control",
    ),
    pytest.param(controlled_by(name="another"), id="of another service"),
    pytest.param(controlled_by(apiVersion="apps/v1"), id="of a kind of another group"),
]


@pytest.mark.parametrize("metadata", FOREIGN)
@pytest.mark.parametrize("obj", [BUDGET, FRONT, SLICE, SECRET], ids=lambda obj: str(obj["kind"]))
async def test_an_object_of_somebody_else_is_a_conflict_and_neither_written_nor_deleted(
    obj: Object, metadata: dict[str, Any]
) -> None:
    world = World()
    there = world.server.put(obj, **metadata)
    for _ in range(2):
        with pytest.raises(KubeError, match="is not this SLMService's") as raised:
            await world.apply(obj)
        assert raised.value.status == 409
        assert world.server.requests == ["apply", "look"]
    assert world.server.stored[obj["kind"], obj["metadata"]["name"]] == there
    assert not await world.owned.remove(CHAT.uid, CHAT.namespace)


@pytest.mark.parametrize("obj", [BUDGET, FRONT, SLICE, SECRET], ids=lambda obj: str(obj["kind"]))
@pytest.mark.parametrize("shown", [False, True], ids=["unseen", "seen"])
async def test_what_somebody_puts_in_the_place_of_its_own_is_a_conflict(
    obj: Object, shown: bool
) -> None:
    world = World()
    await world.apply(obj)
    uid = world.server.lose(obj)
    if shown:
        world.owned.miss(uid)
    there = world.server.put(obj)
    with pytest.raises(KubeError, match="Conflict"):
        await world.apply(obj, also_unchanged=True)
    assert world.server.stored[obj["kind"], obj["metadata"]["name"]] == there


async def test_an_object_that_was_taken_from_its_service_is_not_taken_back(world: World) -> None:
    world.server.edit(FRONT, ownerReferences=[])
    world.show(FRONT)
    assert await world.woken_now() == ["default/chat"]
    with pytest.raises(KubeError, match="Conflict"):
        await world.apply(BUDGET, FRONT, SLICE)
    assert world.server.stored["Service", "chat"]["metadata"]["ownerReferences"] == []


async def test_the_place_of_an_object_that_goes_away_is_taken_at_the_next_try() -> None:
    world = World()
    world.server.put(FRONT)
    with pytest.raises(KubeError, match="Conflict"):
        await world.apply(FRONT)
    world.server.lose(FRONT)
    assert await world.apply(FRONT) == [("Service", False)]


async def test_what_a_new_service_needs_takes_one_request_each(world: World) -> None:
    fresh = World()
    await fresh.apply(BUDGET, FRONT, SLICE, SECRET)
    assert fresh.server.requests == ["apply"] * 4
    await fresh.apply(disruption_budget(CHAT, 5), FRONT, SLICE, SECRET, also_unchanged=True)
    assert fresh.server.requests == ["apply"] * 4


async def test_an_operator_that_starts_again_looks_for_what_no_watch_has_shown(
    world: World,
) -> None:
    await world.apply(SECRET)
    before = copy.deepcopy(world.server.stored)
    again = World()
    again.server = world.server
    again.owned._kube = world.server  # type: ignore[assignment]
    again.service = service(status=SLMServiceStatus(conditions=(SERVING,)))
    assert await again.apply(BUDGET, SECRET) == [("PodDisruptionBudget", True), ("Secret", True)]
    assert world.server.requests == ["look", "apply"] * 2
    assert world.server.stored == before
    assert await again.apply(BUDGET, SECRET, also_unchanged=True)
    assert world.server.requests == ["apply"] * 2


async def test_an_operator_that_was_killed_before_the_first_status_knows_its_own(
    world: World,
) -> None:
    again = World()
    again.server = world.server
    again.owned._kube = world.server  # type: ignore[assignment]
    assert await again.apply(FRONT) == [("Service", True)]
    assert world.server.requests == ["apply", "look", "apply"]


async def test_what_the_api_server_refuses_of_its_own_is_not_tried_without_end(
    world: World,
) -> None:
    world.server.refusal = KubeError(422, "Invalid", "spec.ports")
    with pytest.raises(KubeError, match="Invalid"):
        await world.apply(FRONT, also_unchanged=True)
    assert world.server.requests == ["apply", "look", "apply"]


async def test_an_operator_that_starts_again_knows_what_is_its_services_own(world: World) -> None:
    again = World()
    again.server = world.server
    again.owned._kube = world.server  # type: ignore[assignment]
    world.server.edit(FRONT)
    again.show(FRONT)
    assert await again.woken_now() == []
    assert await again.apply(FRONT) == [("Service", True)]
    again.show(FRONT)
    assert await again.woken_now() == []


async def test_an_object_of_another_owner_is_nobodys() -> None:
    world = World()
    owner = {"kind": "Service", "name": "chat", "uid": "u1", "controller": True}
    for owners in ([owner], [owner | {"kind": "SLMService", "controller": False}], None):
        obj = FRONT | {"metadata": {**FRONT["metadata"], "uid": "x", "ownerReferences": owners}}
        world.owned.see(("v1", "Service", "chat"), obj)
    world.owned.miss("x")
    assert await world.woken_now() == []
    assert (world.owned._of, world.owned._places) == ({}, {})


async def test_nothing_is_kept_of_a_service_that_is_forgotten(world: World) -> None:
    await world.apply(BUDGET, FRONT, SLICE, SECRET)
    world.owned.forget(CHAT.uid)
    assert (world.owned._of, world.owned._places) == ({}, {})
    for obj in (BUDGET, FRONT, SLICE):
        world.show(obj)  # such as that it is being deleted
        world.owned.miss(world.server.lose(obj))
    assert (world.owned._of, world.owned._places) == ({}, {})
    assert await world.woken_now() == []


class Watching:
    """Lists nothing, and watches for ever."""

    def __init__(self, listed: list[Object]) -> None:
        self.listed = listed
        self.asked: list[tuple[str, ...]] = []
        self.idle = asyncio.Semaphore(0)

    async def pages(
        self, api: str, kind: str, namespace: str, *, labels: str, metadata_only: bool
    ) -> AsyncIterator[Page]:
        assert metadata_only
        self.asked.append((api, kind, namespace, labels))
        yield Page([obj for obj in self.listed if obj["kind"] == kind], "5")

    async def version(self, api: str, kind: str, namespace: str) -> int:
        return 5

    async def watch(
        self, *_: str, metadata_only: bool, **how: str
    ) -> AsyncIterator[tuple[str, Object]]:
        assert metadata_only
        self.idle.release()
        await asyncio.Event().wait()
        yield "", {}


async def test_the_metadata_of_all_but_secrets_is_watched_and_a_list_tells_what_is_gone(
    world: World,
) -> None:
    stored = world.server.stored["Service", "chat"]["metadata"]
    kube = Watching([{"kind": "Service", "metadata": stored}])
    world.owned._kube = kube  # type: ignore[assignment]
    wake = world.owned._wake
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(world.owned.follow(wake, ("default", "other")))
        async with asyncio.timeout(5):
            for _ in range(6):
                await kube.idle.acquire()
        following.cancel()
    ours, slices = "managed-by=slm-operator", "endpointslice.kubernetes.io/managed-by=slm-operator"
    assert sorted(kube.asked) == [
        (api, kind, namespace, label)
        for api, kind, label in (
            ("discovery.k8s.io/v1", "EndpointSlice", slices),
            ("policy/v1", "PodDisruptionBudget", f"app.kubernetes.io/{ours}"),
            ("v1", "Service", f"app.kubernetes.io/{ours}"),
        )
        for namespace in ("default", "other")
    ]
    # The budget and the slice are gone; the Service is there, and was not another namespace's.
    assert await world.woken_now() == ["default/chat"] * 2
