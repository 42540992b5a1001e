"""Operator, agent and HAProxy drive real vLLM replicas on the CPU to a decision.

What the knee is depends on the machine and on what else it does, so the decision is held against
the points that this very run measured.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
import yaml

from slm_dev.controlplane import find_or_build
from slm_dev.stack import REPOSITORY, Stack, StackSettings
from slm_dev.vllm_cpu.install import ensure_environment
from slm_dev.vllm_cpu.model import ensure_model
from slm_operator.api.models import SLMService
from slm_operator.decide import points
from slm_operator.pareto.choice import choose
from slm_operator.pareto.objective import Objective
from slm_worker.wire import ROUTER_PORT

NAME = "vllm-cpu"
DECISION_SECONDS = 900
QUESTIONS = {"The capital of France is": "Paris", "The capital of Italy is": "Rome"}


@pytest.fixture
async def stack() -> AsyncIterator[Stack]:
    environment = await asyncio.to_thread(ensure_environment, print)
    model = await asyncio.to_thread(ensure_model, print)
    settings = StackSettings(
        operator_arguments=("--min-window-seconds=10", "--max-window-seconds=20"),
        worker_programs=(environment.vllm.parent,),
        worker_environment=environment.environment,
    )
    manifest = yaml.safe_load((REPOSITORY / "examples/vllm-cpu.yaml").read_text())
    manifest["spec"]["model"]["uri"] = f"file://{model}"
    manifest["spec"]["autoscaling"]["maxReplicasPerPack"] = 2
    binaries = await asyncio.to_thread(find_or_build, print)
    async with Stack(binaries, settings) as running:
        await running.apply(yaml.safe_dump(manifest))
        yield running


class Client:
    """Asks one question after the other through the pack's router, and keeps the answers."""

    def __init__(self, address: str) -> None:
        self._url = f"http://{address}:{ROUTER_PORT}/v1/completions"
        self.answers: list[tuple[str, str]] = []
        self.failures: list[str] = []

    async def run(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                for question in QUESTIONS:
                    await self._ask(session, question)

    async def _ask(self, session: aiohttp.ClientSession, question: str) -> None:
        body = {"model": NAME, "prompt": question, "max_tokens": 12, "temperature": 0}
        async with session.post(self._url, json=body) as answer:
            if answer.status != 200:
                self.failures.append(f"{answer.status}: {await answer.text()}")
                return
            choice = (await answer.json())["choices"][0]
            if choice["finish_reason"] not in ("length", "stop"):
                self.failures.append(f"finish_reason {choice['finish_reason']}")
            self.answers.append((question, choice["text"]))


async def decided(stack: Stack) -> SLMService:
    async with asyncio.timeout(DECISION_SECONDS):
        while True:
            service = await stack.service(NAME)
            if service.status.calibration and service.status.calibration.phase == "Done":
                return service
            await asyncio.sleep(1)


async def first_ready(stack: Stack) -> SLMService:
    async with asyncio.timeout(DECISION_SECONDS):
        while True:
            service = await stack.service(NAME)
            if service.status.ready_replicas >= 1:
                return service
            await asyncio.sleep(1)


@pytest.mark.timeout(2 * DECISION_SECONDS)
async def test_real_replicas_are_driven_to_a_decision_that_their_points_justify(
    stack: Stack,
) -> None:
    client = Client(await stack.pack_address(await first_ready(stack)))
    asking = asyncio.create_task(client.run())
    service = await decided(stack)
    asking.cancel()
    await asyncio.wait({asking})

    status = service.status
    measured = points.read(status.frontier)
    assert {p.probe.replicas for p in measured} == {1, 2}
    assert all(p.saturated_fraction >= 0.95 for p in measured)
    assert all(p.output_tokens_per_second > 0 for p in measured)
    assert all(p.power_watts is None and not p.simulated for p in measured)
    expected = choose([p for p in measured if p.probe.committed], Objective())
    assert status.recommended_replicas_per_pack == expected.chosen.probe.replicas
    assert status.operating_point is not None
    assert status.operating_point.replicas_per_pack == expected.chosen.probe.replicas
    calibrated = status.condition("Calibrated")
    assert calibrated is not None
    assert "throughput alone decided" in calibrated.message

    assert client.failures == []
    assert {question for question, _ in client.answers} == set(QUESTIONS)
    for question, text in client.answers:
        assert QUESTIONS[question] in text, f"{question!r} was answered {text!r}"
    load = (await stack.agent_state(service)).load
    assert load.completed > 0
    assert load.failed == 0
