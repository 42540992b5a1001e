"""What a former service of the name left, when nobody has removed that yet."""

from __future__ import annotations

import pytest

from owned_world import BUDGET, FRONT, SECRET, SLICE, World, controlled_by
from slm_operator.cluster.kube import Object


@pytest.mark.parametrize("obj", [BUDGET, FRONT, SLICE, SECRET], ids=lambda obj: str(obj["kind"]))
async def test_what_a_former_service_of_the_name_left_is_deleted_and_made_anew(obj: Object) -> None:
    world = World()
    former = world.server.put(obj, **controlled_by())["metadata"]["uid"]
    assert await world.apply(obj) == []
    assert world.server.requests == ["apply", "look", "delete"]
    assert world.waits is not None
    assert world.waits.reason == "FormerService"
    assert await world.apply(obj) == [(obj["kind"], False)]
    assert world.waits is None
    stored = world.server.stored[obj["kind"], obj["metadata"]["name"]]["metadata"]
    assert stored["uid"] != former


async def test_what_a_finalizer_holds_of_a_former_service_keeps_nothing_else_waiting() -> None:
    world = World()
    world.server.put(FRONT, finalizers=["service.kubernetes.io/load-balancer"], **controlled_by())
    assert await world.apply(FRONT, BUDGET) == [("PodDisruptionBudget", False)]
    assert await world.apply(FRONT, BUDGET) == []
    assert world.server.requests == ["apply", "look"], "it is deleted once"
    assert world.waits is not None
    assert "waits until the Service default/chat of the former SLMService" in world.waits.message
    world.server.lose(FRONT)
    assert await world.apply(FRONT, BUDGET) == [("Service", False)]
