"""The agent and its router: routing by plan, and what outlives an agent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from agent_process import AgentProcess, Users, agent
from slm_worker.wire import Layout, Plan, Routing

LAYOUT = Layout(replicas=2, max_num_seqs=64)


def plan(generation: int, routing: Routing) -> Plan:
    return Plan(generation=generation, layout=LAYOUT, rotation=2, routing=routing)


@asynccontextmanager
async def settled(tmp_path: Path, address: str = "") -> AsyncIterator[AgentProcess]:
    """A pack that runs the layout, on ``address`` where one is given."""
    async with agent(tmp_path, env={"POD_IP": address} if address else {}) as pack:
        await pack.until("a first sample", lambda state: state.counters)
        await pack.settle(plan(1, Routing()))
        yield pack


async def test_a_plan_chooses_how_requests_are_balanced(tmp_path: Path) -> None:
    async with settled(tmp_path) as pack:
        users = Users(pack)
        await users.until_answered(40)
        before = (await pack.until("counted", lambda s: s.router.replicas[0].served)).router
        assert [one.served > 0 for one in before.replicas] == [True, False]
        await pack.settle(plan(2, Routing(mode="Spread")))
        await pack.until("both serve", lambda state: state.router.replicas[1].served > 20)
        await users.stop()
        assert set(users.answers) == {200}

        # A look from before the last answers may have met a moment without a request.
        answered = users.answers[200]
        state = await pack.until(
            "all ended", lambda s: not s.router.in_progress and s.router.served >= answered
        )
        router = state.router
        parts = router.served + router.answered_4xx + router.unanswered
        assert router.requests == parts and router.answered_5xx == 0


async def test_clients_that_keep_their_connections_are_gone_before_the_pack(
    tmp_path: Path,
) -> None:
    async with settled(tmp_path) as pack:
        users = Users(pack)
        await users.until_answered(40)
        assert await pack.terminate() == 0
        await users.stop()
    # What is refused was not sent: the client tries elsewhere.
    refused = {answer for answer in users.answers if "ClientConnectorError" in str(answer)}
    assert set(users.answers) - refused == {200}


async def test_a_killed_agent_leaves_its_port_to_the_next(tmp_path: Path) -> None:
    async with settled(tmp_path) as first:
        haproxy = haproxy_of(first)
        first.process.kill()
        async with settled(tmp_path, first.address) as second:
            assert await second.complete() == 200
        assert not haproxy.is_running()


def haproxy_of(pack: AgentProcess) -> psutil.Process:
    children = psutil.Process(pack.process.pid).children(recursive=True)
    return next(child for child in children if child.name() == "haproxy")
