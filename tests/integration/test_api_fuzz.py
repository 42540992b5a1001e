"""Odd objects: each is refused by name or reconciled, and none of them holds up another."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from benchmarks.fuzz.cases import cases
from benchmarks.fuzz.trial import DryRun, run
from operator_rig import NewService, fixed, until
from slm_dev.stack import Stack
from slm_operator.api.models import API_VERSION, KIND, SLMService
from slm_operator.cluster.connection import KubeError

pytestmark = pytest.mark.asyncio(loop_scope="session")

CASES = 300
SEED = 7
STORED = 12
"""As many as are also created, for packs that no node can take."""


async def test_each_is_refused_by_name_or_reconciled(
    operator_stack: Stack, new_service: NewService
) -> None:
    drawn = await asyncio.to_thread(cases, CASES, SEED)
    kube = await DryRun.connect(operator_stack.kubeconfig)
    try:
        results = await run(kube, drawn, "default")
    finally:
        await kube.close()
    assert [r.message for r in results if r.outcome == "fault"] == []
    accepted = [r.obj for r in results if r.outcome in ("accepted", "said")]
    assert len(results) == CASES and len(accepted) >= CASES // 20

    made = await stored(operator_stack, [o for o in accepted if needs_a_gpu(o)][:STORED])
    try:
        good = await new_service(fixed())
        await good.serves()
        for name in made:

            async def seen(name: str = name) -> bool:
                return observed(await operator_stack.service(name))

            await until(f"{name} is reconciled", seen)
    finally:
        for name in made:
            await operator_stack.kube.delete(API_VERSION, KIND, name, "default")
    operator_stack.operator.check()


async def stored(stack: Stack, objects: list[Any]) -> list[str]:
    names = [f"fuzz-{number}" for number in range(len(objects))]
    for name, obj in zip(names, objects, strict=True):
        try:
            await stack.kube.create({**obj, "metadata": {"name": name, "namespace": "default"}})
        except KubeError as error:
            raise AssertionError(f"accepted as a dry run alone: {obj}") from error
    return names


def needs_a_gpu(obj: Any) -> bool:
    """So that its packs stay unscheduled: the node has no GPU."""
    return bool(obj["spec"].get("gpu", {}).get("kind", "NVIDIA") == "NVIDIA")


def observed(service: SLMService) -> bool:
    ready = service.status.condition("Ready")
    return service.status.observed_generation == service.generation and ready is not None
