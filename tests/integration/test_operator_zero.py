"""A service goes to zero packs and comes back for requests that its activator holds."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from operator_rig import DECISION_SECONDS, SIMULATED, NewService, Service, until
from slm_dev.clients import Clients
from slm_dev.local_node.addresses import AddressPool
from slm_dev.program import Program
from slm_dev.stack import Stack
from slm_operator.activator.wire import CONTROL_PORT, TOKEN_VARIABLE
from slm_operator.api.models import SLMService
from slm_operator.render.activation import API_VERSION, KIND, slice_name

pytestmark = pytest.mark.asyncio(loop_scope="session")

EACH = 10
"""Clients that stream, and as many that do not."""
SHOWN_ADDRESS = "10.9.8.7"
"""What slices name, which may not be of loopback; nothing here goes by slices."""
SLEEPY = SIMULATED | {
    "engine": SIMULATED["engine"] | {"maxNumSeqs": 8},
    "autoscaling": {
        "maxReplicasPerPack": 1,
        "minPacks": 0,
        "maxPacks": 2,
        "scaleDownStabilization": "6s",
        "calibration": {"promptTokens": 32, "outputTokens": 64},
    },
}


@pytest_asyncio.fixture(loop_scope="session")
async def activator(
    operator_stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[str]:
    """The address of an activator, with an operator that uses it in the place of the stack's."""
    monkeypatch.setenv(TOKEN_VARIABLE, "t" * 32)
    addresses = AddressPool()
    address = addresses.claim()
    command = ["slm_operator.activator", f"--address={address}"]
    program = Program(tmp_path, "activator", command, dict(os.environ))
    await operator_stack.operator.stop()
    try:
        program.launch()
        async with operator_stack.another_operator(
            "operator-with-activator",
            f"--activator-url=http://{address}:{CONTROL_PORT}",
            f"--activator-address={SHOWN_ADDRESS}",
        ) as (operator, _):
            operator.launch()
            yield address
    finally:
        await program.stop()
        addresses.release(address)
        await operator_stack.start_operator()


async def led_to(service: Service) -> list[tuple[str, int]]:
    """Where clients of the Service are led besides the packs."""
    found = await service.stack.kube.get(
        API_VERSION, KIND, slice_name(service.name), namespace="default"
    )
    port = found["ports"][0]["port"]
    return [(one["addresses"][0], port) for one in found.get("endpoints") or ()]


def measured(service: SLMService) -> list[tuple[int, int, str]]:
    return [
        (p.replicas_per_pack, p.output_tokens_per_second, p.measured_at)
        for p in service.status.frontier
    ]


@pytest.mark.timeout(6 * DECISION_SECONDS)
async def test_requests_at_zero_packs_wait_for_one_and_none_is_lost(
    activator: str, new_service: NewService
) -> None:
    service = await new_service(SLEEPY)
    await service.decided()
    asleep = await service.until("no pack is wanted", lambda s: s.status.desired_packs == 0)
    port = asleep.status.activator_port
    assert port is not None
    await service.condition("Ready", "True", "ScaledToZero")

    async def led_away() -> bool:
        return await led_to(service) == [(SHOWN_ADDRESS, port)]

    await until("the activator gets the requests", led_away)  # the status comes before the deeds

    # The pack before may still be ending.
    url = f"http://{activator}:{port}"
    streaming = Clients(url, service.name, EACH)
    waiting = Clients(url, service.name, EACH, stream=False)
    async with streaming, waiting:
        await service.until("a pack is wanted", lambda s: s.status.desired_packs == 1)
        await service.until("it is ready", lambda s: s.status.ready_packs == 1)
        # Soon after the last request it goes again.
        back, agent = await service.now(), await service.agent()
    for group in (streaming, waiting):
        assert group.counts.failed == 0, group.counts.last_failure
        assert group.counts.completed == group.counts.sent >= EACH

    rules = [e.rule for e in back.status.history]
    asleep_since = len(asleep.status.history)
    assert rules[asleep_since - 1 : asleep_since + 1] == ["NoRequests", "RequestsHeld"]
    await service.condition("Calibrated", "True", "KneeFound")
    assert agent.plan is not None and agent.plan.load is None, "nothing is searched again"
    assert measured(back) == measured(asleep) != []

    # While this operator is there: here is no garbage collector that would end the packs of a
    # service that was deleted while no operator looked.
    await service.delete()
    await service.gone()


async def test_requests_that_wait_when_one_pack_becomes_the_least_are_answered(
    activator: str, new_service: NewService
) -> None:
    live = SLEEPY["autoscaling"] | {"calibration": {"when": "Live"}}
    service = await new_service(SLEEPY | {"autoscaling": live})
    await service.serves()
    asleep = await service.until("no pack is wanted", lambda s: s.status.desired_packs == 0)
    await service.until("none is there", lambda s: s.status.packs == 0)
    clients = Clients(f"http://{activator}:{asleep.status.activator_port}", service.name, EACH)
    async with clients:
        await service.apply(autoscaling=live | {"minPacks": 1})
        await service.until("a pack is ready", lambda s: s.status.ready_packs == 1)
        await until("what waited is answered", lambda: answered(clients), 30)
    assert clients.counts.failed == 0, clients.counts.last_failure

    async def led_nowhere() -> bool:
        return await led_to(service) == []

    await until("clients are led to the pack alone", led_nowhere)
    await service.delete()
    await service.gone()


async def answered(clients: Clients) -> bool:
    return clients.counts.completed >= EACH
