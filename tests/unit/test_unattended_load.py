"""The agent's load ends with the operator that wanted it: nobody measures under it any more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import cast

import pytest
from aiohttp.test_utils import TestClient, TestServer

from fake_agent import BEARER, TOKEN, Client, FakeAgent
from slm_worker.agent import Agent, PlanRefusedError
from slm_worker.bringup import BringUp
from slm_worker.loading import UNATTENDED_SECONDS
from slm_worker.server import make_app
from slm_worker.wire import GpuConfig, Layout, Load, LoadState, Plan, RouterState

LAYOUT = Layout(replicas=2, max_num_seqs=8)
LOAD = Load(prompt_tokens=8, output_tokens=8)
MEASURED = Plan(generation=3, layout=LAYOUT, rotation=1, load=LOAD)
SERVING = MEASURED.model_copy(update={"load": None})


class Pack:
    """An agent before a device that never opens; ``now`` is its clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.passes = 0
        self.loads: list[Load | None] = []
        self.state = LoadState()
        self.agent = Agent(
            agent_id="a",
            version="0",
            gpu=GpuConfig(kind="Simulated"),
            bring_up=cast(
                BringUp,
                SimpleNamespace(
                    attempt=self._attempt,
                    close=self._closed,
                    device=None,
                    problem=None,
                    router=SimpleNamespace(send_clients_away=lambda: None, state=RouterState()),
                ),
            ),
            make_host=lambda _: pytest.fail("there is no device"),
            load=self,
            clock=lambda: self.now,
            linger_seconds=0.0,
        )

    async def _attempt(self) -> bool:
        self.passes += 1
        return False

    async def _closed(self) -> None: ...

    async def match(self, load: Load | None, rotation: int, max_num_seqs: int) -> None:
        self.loads.append(load)

    async def wait(self, seconds: float) -> Plan | None:
        """The plan that is followed after so long, once two passes saw the time."""
        self.now += seconds
        seen = self.passes
        async with asyncio.timeout(60):
            while self.passes < seen + 2:
                await asyncio.sleep(0.01)
        return self.agent.state().plan


@pytest.fixture
async def pack() -> AsyncIterator[Pack]:
    made, end = Pack(), asyncio.Event()
    running = asyncio.create_task(made.agent.run(end))
    yield made
    end.set()
    await running


async def test_a_load_that_nobody_attends_ends_even_where_no_pass_succeeds(
    pack: Pack, caplog: pytest.LogCaptureFixture
) -> None:
    pack.agent.accept(MEASURED)
    assert await pack.wait(UNATTENDED_SECONDS - 0.1) == MEASURED
    assert (pack.loads, pack.agent.state().load_message) == ([], "")
    with caplog.at_level(logging.WARNING):
        assert await pack.wait(0.1) == SERVING
    assert pack.loads == [None]
    told = "no operator asked for 60 s"
    assert told in pack.agent.state().load_message
    assert [told in line for line in caplog.messages] == [True], "told once"


async def test_a_load_that_cannot_be_ended_ends_no_agent(
    pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks(*_: object) -> None:
        raise ValueError("what a sender died of")

    monkeypatch.setattr(pack, "match", breaks)
    pack.agent.accept(MEASURED)
    assert await pack.wait(UNATTENDED_SECONDS) == SERVING
    assert await pack.wait(1.0) == SERVING


async def test_an_operator_that_only_looks_keeps_the_load(pack: Pack) -> None:
    pack.agent.accept(MEASURED)
    for _ in range(3):
        pack.agent.attend()
        assert await pack.wait(UNATTENDED_SECONDS - 0.1) == MEASURED
    assert pack.loads == []


async def test_a_plan_without_a_load_needs_nobody(pack: Pack) -> None:
    pack.agent.accept(SERVING)
    assert await pack.wait(10 * UNATTENDED_SECONDS) == SERVING
    assert (pack.loads, pack.agent.state().load_message) == ([], "")


async def test_only_a_new_plan_takes_the_load_up_again(pack: Pack) -> None:
    pack.agent.accept(MEASURED)
    assert await pack.wait(UNATTENDED_SECONDS) == SERVING
    pack.agent.attend()
    assert await pack.wait(1.0) == SERVING, "a look is no wish for a load"
    with pytest.raises(PlanRefusedError) as refused:
        pack.agent.accept(MEASURED)
    assert refused.value.error.reason == "StaleGeneration"

    again = MEASURED.model_copy(update={"generation": 4})
    pack.agent.accept(again)
    assert await pack.wait(1.0) == again
    assert pack.agent.state().load_message == ""


async def test_only_who_has_the_token_attends() -> None:
    agent = FakeAgent()
    async with TestClient(TestServer(make_app(agent, lambda: TOKEN))) as client:
        for path in ("/healthz", "/readyz", "/metrics", "/v1/pack"):
            await ask(client, path, {"Authorization": "Bearer wrong"})
        assert agent.attended == 0
        await ask(client, "/v1/pack", BEARER)
        assert agent.attended == 1


async def ask(client: Client, path: str, headers: dict[str, str]) -> None:
    async with client.get(path, headers=headers):
        pass
