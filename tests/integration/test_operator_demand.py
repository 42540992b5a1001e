"""Packs follow the demand of clients, on the whole stack."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from operator_rig import (
    DECISION_SECONDS,
    SAMPLE_SECONDS,
    SIMULATED,
    NewService,
    Service,
    another,
    counted,
    until,
)
from slm_dev.clients import Clients
from slm_dev.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

BATCH = 8
ANSWER_TOKENS = 200
FOLLOWING = SIMULATED | {
    "engine": SIMULATED["engine"] | {"maxNumSeqs": BATCH},
    "autoscaling": {
        "maxReplicasPerPack": 1,
        "maxPacks": 2,
        "scaleDownStabilization": "15s",
        "calibration": {"promptTokens": 32, "outputTokens": ANSWER_TOKENS},
    },
}
KNOWN_SAMPLES = 35
"""So much is compared with to tell growth from a surge, whose packs would stay for an hour: a
minute, the one before a pack would have had to be asked for, and what a start takes."""
READS = 'slm_operator_requests_total{code="200",method="GET",to="agent"}'
CLIENTS_A_SAMPLE = BATCH // 4
"""Who come together. The pack is three quarters full before, so that they are growth: what fills
more than one pack is less than half as much again."""


def clients(url: str, service: Service, count: int) -> Clients:
    return Clients(url, service.name, count, ANSWER_TOKENS, stream=False)


async def sampled(stack: Stack, samples: int) -> None:
    """Until the operator has looked so often. Where nothing else happens, each look is a sample."""
    enough = await counted(stack, READS) + samples

    async def reached() -> bool:
        return await counted(stack, READS) >= enough

    await until(f"{samples} samples", reached)


async def only(service: Service, pod: str) -> bool:
    return await service.pods() == [pod]


@pytest.mark.timeout(6 * DECISION_SECONDS)
async def test_demand_adds_a_pack_and_its_end_removes_it(
    operator_stack: Stack, new_service: NewService
) -> None:
    service = await new_service(FOLLOWING)
    await service.condition("ScalingActive", "False", "DemandUnknown", "1 pack stays")
    found = await service.decided()
    assert (found.status.desired_packs, found.status.packs) == (1, 1)
    first = (await service.pod())["metadata"]["uid"]

    url = await service.router_url()
    async with clients(url, service, BATCH // 2) as regular:
        await service.condition("ScalingActive", "True", "FollowingDemand", "1 pack, of 1 to 2")
        await sampled(operator_stack, KNOWN_SAMPLES // 2)
        assert await only(service, f"{service.name}-pack-0"), "half of it is free"
        async with AsyncExitStack() as growing:
            more = [await growing.enter_async_context(clients(url, service, CLIENTS_A_SAMPLE))]
            await sampled(operator_stack, KNOWN_SAMPLES)
            while (await service.now()).status.desired_packs == 1:
                assert len(more) * CLIENTS_A_SAMPLE < 16 * BATCH, "more than enough"
                crowd = clients(url, service, CLIENTS_A_SAMPLE)
                more.append(await growing.enter_async_context(crowd))
                # The first look after a period is a sample, or one was within it.
                await asyncio.sleep(SAMPLE_SECONDS)
                await another(operator_stack, READS)
            grown = await service.until("two packs serve", lambda s: s.status.ready_packs == 2)
        assert grown.status.desired_packs == 2
        await service.condition("ScalingActive", "True", "FollowingDemand")
        added = next(e for e in grown.status.history if e.reason == "PacksAdded")
        assert (added.from_, added.to, added.rule) == ("1 pack", "2 packs", "DemandRising")
        second = await service.agent(1)
        assert second.plan is not None and second.plan.load is None
        assert second.plan.layout == (await service.agent(0)).plan.layout  # type: ignore[union-attr]

    fewer = await service.until("one pack is wanted", lambda s: s.status.desired_packs == 1)
    await until("the second is gone", lambda: only(service, f"{service.name}-pack-0"))
    assert (await service.pod())["metadata"]["uid"] == first
    removed = fewer.status.history[-1]
    assert (removed.reason, removed.rule) == ("PacksRemoved", "DemandFalling")
    await service.told("PacksAdded", "PacksRemoved")
    for crowd in (regular, *more):
        assert crowd.counts.failed == 0, crowd.counts.last_failure
