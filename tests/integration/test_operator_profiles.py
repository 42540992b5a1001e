"""What one service measured spares the next one its search, and tells who draws which power."""

from __future__ import annotations

import json

import pytest

from commands import kubectl, slmctl
from operator_rig import NewService, searching
from slm_dev.stack import Stack
from slm_operator.api.models import SLMService

pytestmark = pytest.mark.asyncio(loop_scope="session")

CLEAR_GAIN = {"minThroughputGainPercent": 10}
ENOUGH_FOR_THREE_REPLICAS = "--cluster-power-budget-watts=800"
"""On the simulated H100 one replica draws, saturated, some 340 W, and two 440."""


def shared(service: SLMService) -> bool:
    """Whether the service is held to a share of the cluster's power."""
    budget = service.status.condition("PowerBudgetMet")
    return budget is not None and (budget.status, budget.reason) == ("True", "PowerShared")


async def test_a_second_service_begins_at_the_knee_of_the_first_and_gives_way_to_it(
    operator_stack: Stack, new_service: NewService
) -> None:
    spec = searching(2, **CLEAR_GAIN)
    first = await new_service(searching(2, powerPriority=1, **CLEAR_GAIN))
    found = await first.decided()
    assert [e.reason for e in found.status.history] == ["Probed", "KneeFound"]

    listed = json.loads(await slmctl(operator_stack, "profile", "ls", "--output=json"))
    (name,) = (i["name"] for i in listed["items"] if i["profile"]["writtenBy"] == first.name)

    second = await new_service(spec)
    done = await second.decided()
    assert [e.reason for e in done.status.history] == ["ProfileUsed", "KneeFound"]
    assert first.name in done.status.history[0].message
    assert done.status.recommended_replicas_per_pack == 2
    assert (await second.agent()).load.failed == 0

    await operator_stack.operator.stop()
    try:
        async with (
            operator_stack.another_operator("operator-power", ENOUGH_FOR_THREE_REPLICAS) as (
                program,
                _,
            ),
            second.users() as users,
        ):
            program.launch()
            held = await second.until("gives way", lambda s: s.status.replicas == 1 and shared(s))
            await second.serves(1)
            await users.served(1)
        assert users.failed == 0, users.failures
        assert held.status.power is not None and held.status.power.limit_watts_per_pack
        kept = await first.serves(2)
        assert kept.status.power is not None and kept.status.power.limit_watts_per_pack is None
        assert kept.status.power.allotted_watts + held.status.power.allotted_watts <= 800
    finally:
        await operator_stack.start_operator()

    await slmctl(operator_stack, "profile", "rm", name)

    left = json.loads(await slmctl(operator_stack, "profile", "ls", "--output=json"))
    assert name not in [i["name"] for i in left["items"]]


async def test_the_operator_may_touch_no_other_config_map(operator_stack: Stack) -> None:
    rights = await kubectl(operator_stack, "auth", "can-i", "--list", "--as=slm-operator")
    (row,) = (line for line in rights.splitlines() if line.startswith("configmaps"))
    assert "[slm-profiles]" in row
    assert "[get create patch]" in row
