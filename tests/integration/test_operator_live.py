"""calibration.when Live: users' requests alone measure, on the real stack, simulated engines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import fmean
from typing import Any

import pytest

from operator_rig import DECISION_SECONDS, WAIT_SECONDS, NewService, Service, Users, searching
from slm_dev.clients import Clients
from slm_operator.decide import points
from slm_operator.pareto.choice import choose
from slm_operator.pareto.objective import Objective

pytestmark = pytest.mark.asyncio(loop_scope="session")

SEQUENCES = 16
ANSWER_TOKENS = (90, 120, 150, 180, 210)
"""Long enough that two busy cores carry the requests, short enough for windows of seconds. Unequal,
or batches would end together, and a window of few rounds count a whole round too many."""
CLEAR_GAIN = {"minThroughputGainPercent": 10}


def live(most_replicas: int) -> dict[str, Any]:
    engine = {"kind": "Simulated", "maxNumSeqs": SEQUENCES, "args": ["--start-seconds=0.2"]}
    spec = searching(most_replicas, **CLEAR_GAIN, calibration={"when": "Live"})
    return spec | {"engine": engine}


@asynccontextmanager
async def users(service: Service, count: int) -> AsyncIterator[Users]:
    """As many for each length of an answer, and ``count`` at least."""
    url, each = await service.router_url(), -(-count // len(ANSWER_TOKENS))
    groups = [Clients(url, service.name, each, tokens, stream=False) for tokens in ANSWER_TOKENS]
    async with AsyncExitStack() as stack:
        for group in groups:
            await stack.enter_async_context(group)
        yield Users(*groups)


@pytest.mark.timeout(3 * DECISION_SECONDS)
async def test_users_that_fill_the_pack_find_its_knee_without_a_load_of_the_operators_own(
    new_service: NewService,
) -> None:
    service = await new_service(live(2))
    await service.condition("Calibrated", "False", "WaitingForLoad", "are in flight")
    async with users(service, round(2.4 * SEQUENCES)) as everyone:
        found = await service.decided()
        state = await service.agent()
    assert everyone.failed == 0, everyone.failures
    assert state.load.sent == 0

    measured = {(p.replicas_per_pack, p.layout_replicas): p for p in found.status.frontier}
    assert set(measured) == {(1, 2), (2, 2)}, "fewer are measured without a restart"
    assert all(p.saturated_percent >= 95 for p in measured.values())
    served = [p.workload for p in measured.values()]
    # Those of the operator's own load would be 256 tokens long.
    near = pytest.approx(fmean(ANSWER_TOKENS), rel=0.4)
    assert all(w and w.output_tokens == near for w in served), served
    known = points.read(found.status.frontier)
    chosen = choose(known, Objective(min_throughput_gain=0.10)).chosen.probe
    assert found.status.recommended_replicas_per_pack == chosen.replicas
    assert {e.reason for e in found.status.history} <= {"Probed", "KneeFound"}


async def test_users_that_do_not_fill_a_replica_teach_nothing_and_are_served_by_all(
    new_service: NewService,
) -> None:
    service = await new_service(live(2))
    await service.serves(replicas=2)
    async with users(service, SEQUENCES // 2) as few:
        await service.agent_until(
            "more answers than a window takes",
            lambda s: s.counters is not None and s.counters.requests_completed > 20 * SEQUENCES,
            2 * WAIT_SECONDS,
        )
        found = await service.now()
        state = await service.agent()
    assert few.failed == 0, few.failures
    assert found.status.frontier == ()
    assert found.status.calibration is not None
    assert found.status.calibration.phase == "Waiting"
    assert state.plan is not None
    assert (state.plan.layout.replicas, state.plan.rotation, state.plan.load) == (2, 2, None)
    await service.condition("Calibrated", "False", "WaitingForLoad")
