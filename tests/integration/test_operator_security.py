"""What keeps secrets secret and rights small, on the whole stack."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from operator_rig import PASSES, Service, another, engine, fixed, until
from slm_dev.stack import Stack
from slm_worker.wire import AGENT_PORT

pytestmark = pytest.mark.asyncio(loop_scope="session")

BATCH = 4
USERS_EACH = 3


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded(operator_stack: Stack) -> AsyncIterator[Service]:
    """A service of one small replica."""
    service = Service(operator_stack, "guarded", fixed(1, **engine(maxNumSeqs=BATCH)))
    await service.apply()
    await service.serves(1)
    yield service
    await service.delete()


async def test_a_rotated_key_reaches_the_packs_without_a_restart_or_a_lost_answer(
    operator_stack: Stack, guarded: Service
) -> None:
    pod, agent = await guarded.pod(), await guarded.agent()
    old = await stored_token(operator_stack)
    seen_since = (await guarded.now()).status.condition("MetricsAvailable")
    async with guarded.users(USERS_EACH) as users:
        await users.served(3)
        operator_stack.rotate_key()

        async def replaced() -> str | None:
            new = await stored_token(operator_stack)
            taken = new != old and await agent_answers(operator_stack, guarded, new) == 200
            return new if taken else None

        await until("the agent takes the new token", replaced)
        assert await agent_answers(operator_stack, guarded, old) == 401
        await another(operator_stack, PASSES)
        await users.served(3)
    assert users.failed == 0, users.failures
    after = await guarded.agent()
    assert (after.agent_id, after.plan) == (agent.agent_id, agent.plan)
    now = await guarded.pod()
    assert now["metadata"]["uid"] == pod["metadata"]["uid"]
    assert now["status"]["containerStatuses"] == pod["status"]["containerStatuses"]
    # At no look was there an agent that could not be read: the old token went on until then.
    assert (await guarded.now()).status.condition("MetricsAvailable") == seen_since


async def stored_token(stack: Stack) -> str:
    secret = await stack.kube.get("v1", "Secret", "guarded-agent-token", "default")
    return base64.b64decode(secret["data"]["token"]).decode()


async def agent_answers(stack: Stack, service: Service, token: str) -> int:
    """The status of an answer to a request with this token."""
    url = f"http://{await stack.pack_address(await service.now())}:{AGENT_PORT}/v1/pack"
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession() as http, http.get(url, headers=headers) as answer:
        return answer.status
