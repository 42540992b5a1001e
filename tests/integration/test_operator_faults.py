"""Faults at the worst moments: what is lost is bounded, what is wrong is said, and it heals."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest
import pytest_asyncio

from operator_rig import (
    DECISION_SECONDS,
    PASSES,
    UNREACHABLE,
    NewService,
    Service,
    another,
    engine,
    fixed,
    searching,
    until,
)
from search_points import kept, measured
from slm_dev.stack import Stack
from slm_operator.cluster.connection import KubeError
from slm_worker.routing.limits import max_in_flight
from slm_worker.wire import PackState

pytestmark = pytest.mark.asyncio(loop_scope="session")

BATCH = 4
USERS_EACH = 5
"""Ten requests at once: more than one replica takes, so that both are busy."""
MOST_LOST_BY_A_KILL = 2 * max_in_flight(BATCH)
"""A process that dies loses its connections one after another, and each place that becomes free
may be given to a request that waits, as long as the process still listens."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def steady(operator_stack: Stack) -> AsyncIterator[Service]:
    """A service of two small replicas; each test leaves it healed."""
    spec = fixed(2, **engine(maxNumSeqs=BATCH))
    async with Service(operator_stack, "steady", spec).serving(2) as service:
        yield service


async def test_an_api_server_that_is_away_stops_no_request(
    operator_stack: Stack, steady: Service
) -> None:
    before, pod = await steady.serves(2), await steady.pod()
    async with steady.users(USERS_EACH) as users:
        async with without_apiserver(operator_stack):
            await another(operator_stack, PASSES)
            await users.served(20)
        await users.served(5)
    assert users.failed == 0, users.failures
    after = await steady.serves(2)
    assert (await steady.pod())["metadata"]["uid"] == pod["metadata"]["uid"]
    assert after.status.history == before.status.history
    # The operator follows the spec again.
    await steady.apply(replicasPerPack=1)
    await steady.serves(1)
    await steady.apply(replicasPerPack=2)
    await steady.serves(2)


@pytest.mark.timeout(3 * DECISION_SECONDS)
async def test_an_api_server_that_is_away_in_mid_search_costs_no_point(
    operator_stack: Stack, new_service: NewService
) -> None:
    service = await new_service(searching(2, minThroughputGainPercent=10))
    before = await service.until("a point", lambda s: s.status.frontier)
    async with service.users() as users:
        async with without_apiserver(operator_stack):
            await another(operator_stack, UNREACHABLE)
            await another(operator_stack, UNREACHABLE)
            await users.served(2)
        found = await service.decided()
    assert users.failed == 0, users.failures
    kept(before, found)
    assert measured(found).keys() == {(2, 2, 256), (1, 1, 256)}
    assert found.status.recommended_replicas_per_pack == 2


@contextlib.asynccontextmanager
async def without_apiserver(stack: Stack) -> AsyncIterator[None]:
    await stack.stop_apiserver()
    try:
        yield
    finally:
        await stack.start_apiserver()


async def test_a_killed_agent_starts_anew(steady: Service) -> None:
    before = await steady.agent()
    async with steady.users(USERS_EACH) as users:
        await users.served(3)
        (await steady.agent_process()).kill()
        after = await steady.agent_until(
            "another agent has settled", lambda s: s.agent_id != before.agent_id and s.settled
        )
        failed = users.failed
        await users.served(5)
        assert users.failed == failed, users.failures
    assert after.counters is not None and before.counters is not None
    assert [one.pid for one in after.replicas] != [one.pid for one in before.replicas]
    assert not any(psutil.pid_exists(one.pid or 0) for one in before.replicas)
    await steady.serves(2)

    async def counted() -> bool:
        return bool((await steady.pod())["status"]["containerStatuses"][0]["restartCount"])

    await until("the node counts the restart", counted)


@pytest.mark.timeout(3 * DECISION_SECONDS)
async def test_an_agent_killed_in_mid_window_spoils_only_that_window(
    new_service: NewService,
) -> None:
    service = await new_service(searching(2, minThroughputGainPercent=10))
    before = await service.until("a point", lambda s: s.status.frontier)
    agent = await service.agent_until("the second is measured", measures_one)
    (await service.agent_process()).kill()
    await service.agent_until("another agent", lambda s: s.agent_id != agent.agent_id)
    found = await service.decided()
    kept(before, found)
    assert measured(found).keys() == {(2, 2, 256), (1, 1, 256)}
    assert found.status.recommended_replicas_per_pack == 2


def measures_one(state: PackState) -> bool:
    return state.settled and state.plan is not None and state.plan.rotation == 1


@pytest.mark.parametrize("index", [0, 1])
async def test_a_killed_replica_takes_along_only_what_it_worked_on(
    steady: Service, index: int
) -> None:
    before, told = await steady.agent(), len(await deaths(steady, index, "EngineKilled"))
    async with steady.users(USERS_EACH) as users:
        await both_busy(steady)
        os.kill(pid_of(before, index), signal.SIGKILL)
        await tells(steady, index, "EngineKilled", "memory limit", told)
        await healed(steady, before, index)
        failed = users.failed
        await users.served(5)
    assert users.failed == failed <= MOST_LOST_BY_A_KILL, users.failures
    await steady.serves(2)


async def test_a_hung_replica_is_found_and_replaced(steady: Service) -> None:
    before, told = await steady.agent(), len(await deaths(steady, 1, "Hung"))
    async with steady.users(USERS_EACH) as users:
        await both_busy(steady)
        os.kill(pid_of(before, 1), signal.SIGSTOP)
        await tells(steady, 1, "Hung", "was killed and starts again", told)
        await healed(steady, before, 1)
        await users.served(5)
    # The router gave it nothing more from before it was killed.
    assert users.failed <= max_in_flight(BATCH), users.failures
    assert not psutil.pid_exists(pid_of(before, 1))
    await steady.serves(2)


def pid_of(state: PackState, index: int) -> int:
    pid = state.replicas[index].pid
    assert pid is not None
    return pid


async def both_busy(service: Service) -> None:
    await service.agent_until("both replicas work", lambda s: all(r.running for r in s.replicas))


async def tells(service: Service, index: int, reason: str, phrase: str, before: int) -> None:
    """The agent names the replica's problem, once more than ``before``."""

    async def told() -> str | None:
        found = await deaths(service, index, reason)
        return found[-1] if len(found) > before else None

    assert phrase in await until(f"{reason} of replica {index}", told)


async def deaths(service: Service, index: int, reason: str) -> list[str]:
    """What the agent told of the replica's deaths for this reason. In its state a problem stands
    only until the replica serves again, and may be gone before a look; the log keeps it."""
    found = []
    for line in service.stack.pack_log(await service.now()).splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if entry.get("replica") == index and entry["message"].startswith(f"{reason}: "):
                found.append(entry["message"])
    return found


async def healed(service: Service, before: PackState, index: int) -> None:
    """The replica has started once more, and no other has."""
    starts = {r.index: r.starts + (r.index == index) for r in before.replicas}
    await service.agent_until(
        "healed", lambda s: s.settled and {r.index: r.starts for r in s.replicas} == starts
    )


async def test_an_overwritten_token_is_told_and_heals(
    operator_stack: Stack, steady: Service
) -> None:
    secret = await operator_stack.kube.get("v1", "Secret", "steady-agent-token", "default")
    pod, agent = await steady.pod(), await steady.agent()
    stranger = {"data": {"token": base64.b64encode(b"x" * 32).decode()}}
    await operator_stack.kube.merge({**secret, "apiVersion": "v1", "kind": "Secret"}, stranger)
    await steady.condition(
        "MetricsAvailable", "False", "AgentRefusedToken", "the Secret is written again"
    )
    await steady.condition("MetricsAvailable", "True", "Measured", "")
    again = await operator_stack.kube.get("v1", "Secret", "steady-agent-token", "default")
    assert again["data"] == secret["data"]
    assert (await steady.pod())["metadata"]["uid"] == pod["metadata"]["uid"]
    assert (await steady.agent()).agent_id == agent.agent_id


async def test_a_deleted_pod_is_made_anew(steady: Service) -> None:
    before = (await steady.pod())["metadata"]["uid"]
    await delete_pod(steady)
    await made_anew(steady, before)
    await steady.serves(2)


async def delete_pod(service: Service) -> None:
    pod = await service.pod()
    await service.stack.kube.delete("v1", "Pod", pod["metadata"]["name"], "default")


async def made_anew(service: Service, before: str) -> None:
    async def replaced() -> bool:
        try:
            pod: dict[str, Any] = await service.pod()
        except KubeError as error:
            assert error.status == 404
            return False
        return bool(pod["metadata"]["uid"] != before)

    await until("another Pod", replaced)


def runs(process: psutil.Process) -> bool:
    """Whether it is more than a zombie, which nobody reaps where its parent was killed."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


async def test_packs_lost_with_their_node_are_made_anew(
    operator_stack: Stack, steady: Service
) -> None:
    before = (await steady.pod())["metadata"]["uid"]
    processes = await steady.pack_processes()
    await operator_stack.node.kill()
    try:

        async def ended() -> bool:
            return not any(map(runs, processes))

        await until("the pack ended with its node", ended)
    finally:
        await operator_stack.start_node()
    await made_anew(steady, before)
    await steady.serves(2)
    async with steady.users() as users:
        await users.served(2)
    assert users.failed == 0, users.failures
