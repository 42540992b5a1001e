"""What one service measured spares the next one its search, on the whole stack."""

from __future__ import annotations

import json
import time

import pytest

from operator_rig import NewService, kubectl, searching, slmctl
from slm_dev.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

ONE_WINDOW_SECONDS = 40.0
CLEAR_GAIN = {"minThroughputGainPercent": 10}


async def test_a_second_service_begins_at_the_knee_of_the_first(
    operator_stack: Stack, new_service: NewService
) -> None:
    spec = searching(2, **CLEAR_GAIN)
    first = await new_service(spec)
    found = await first.decided()
    assert [e.reason for e in found.status.history] == ["Probed", "KneeFound"]
    await first.delete()

    listed = json.loads(await slmctl(operator_stack, "profile", "ls", "--output=json"))
    (name,) = (i["name"] for i in listed["items"] if i["profile"]["writtenBy"] == first.name)

    began = time.monotonic()
    second = await new_service(spec)
    done = await second.decided()
    assert time.monotonic() - began < ONE_WINDOW_SECONDS
    assert [e.reason for e in done.status.history] == ["ProfileUsed", "KneeFound"]
    assert first.name in done.status.history[0].message
    assert done.status.recommended_replicas_per_pack == 2
    assert (await second.agent()).load.failed == 0

    await slmctl(operator_stack, "profile", "rm", name)

    left = json.loads(await slmctl(operator_stack, "profile", "ls", "--output=json"))
    assert name not in [i["name"] for i in left["items"]]


async def test_the_operator_may_touch_no_other_config_map(operator_stack: Stack) -> None:
    rights = await kubectl(operator_stack, "auth", "can-i", "--list", "--as=slm-operator")
    (row,) = (line for line in rights.splitlines() if line.startswith("configmaps"))
    assert "[slm-profiles]" in row
    assert "[get create patch]" in row
