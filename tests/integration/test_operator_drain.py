"""`kubectl drain` of one of two nodes under clients of the service in front, on the whole stack."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from benchmarks.rollout_rig.clients import Clients
from benchmarks.rollout_rig.drain import drain, packs_by_node
from benchmarks.rollout_rig.front import Front
from operator_rig import NewService, fixed, until
from slm_dev.local_node.api import ApiServer
from slm_dev.local_node.node import NODE_NAME
from slm_dev.stack import SECOND_NODE, Stack
from slm_operator.render.children import INSTANCE_LABEL

pytestmark = pytest.mark.asyncio(loop_scope="session")

PACKS = 3
CLIENTS = 8
REQUESTS = 300
"""At least so many before the drain, and after it."""


async def test_a_drained_node_loses_no_request_and_keeps_no_pack(
    new_service: NewService, operator_stack: Stack
) -> None:
    async def alone() -> bool:
        return not await operator_stack.kube.list("v1", "Pod")

    # A node with fewer Pods is preferred, whosesoever they are.
    await until("the Pods of other tests are gone", alone)
    async with operator_stack.second_node(), ApiServer(operator_stack.kubeconfig) as api:
        service = await new_service(fixed(packs=PACKS))
        selector = f"{INSTANCE_LABEL}={service.name}"
        await service.serves(PACKS)
        before = await packs_by_node(api, selector)
        assert (len(before[NODE_NAME]), len(before[SECOND_NODE])) == (2, 1)

        async with clients_of(api, service.name, selector) as clients:
            await clients.until_sent(REQUESTS)
            await drain(operator_stack, api, SECOND_NODE, service.name, selector)
            assert SECOND_NODE not in await packs_by_node(api, selector)

            async def back() -> bool:
                now = await packs_by_node(api, selector)
                return set(now) == {NODE_NAME} and len(now[NODE_NAME]) == PACKS

            # The status may yet be the one from before.
            await until("every pack is on the other node", back)
            await service.serves(PACKS)
            await clients.until_sent(clients.count.sent + REQUESTS)

        after = await packs_by_node(api, selector)
        assert set(after) == {NODE_NAME}
        assert before[NODE_NAME] < after[NODE_NAME] and len(after[NODE_NAME]) == PACKS
        count = clients.count
        assert (count.completed, count.retried, count.causes) == (count.sent, 0, {})


@asynccontextmanager
async def clients_of(api: ApiServer, service: str, selector: str) -> AsyncIterator[Clients]:
    """Clients of all packs, until each has its last answer."""
    front = Front(api, selector, random.Random(1))
    clients = Clients(front, service, CLIENTS)
    following = asyncio.create_task(front.follow())

    async def leads_to_all() -> bool:
        return len(front.ready) == PACKS

    try:
        await until("the front leads to every pack", leads_to_all)
        async with clients.running():
            yield clients
    finally:
        following.cancel()
