"""The search as a whole: operator, agent, HAProxy and simulated engines walk to the knee."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from commands import kubectl, slmctl
from model_folder import write_model
from operator_rig import DECISION_SECONDS, NewService, searching
from search_points import decisions, kept, measured
from slm_dev.stack import Stack
from slm_operator.decide import points
from slm_operator.pareto.choice import choose
from slm_operator.pareto.objective import Objective

pytestmark = pytest.mark.asyncio(loop_scope="session")

CLEAR_GAIN = {"minThroughputGainPercent": 10}
"""The second replica gains a third, the third next to nothing; windows of seconds on a busy machine
cannot tell less than a tenth apart."""
NO_FAULT = {"Probed", "KneeFound", "KneeRecommended", "MetricsMissing"}
"""What may be told of a good search; a busy machine misses a sample now and then."""


@pytest.mark.timeout(3 * DECISION_SECONDS)
async def test_the_knee_is_found_and_no_request_is_lost(
    operator_stack: Stack, new_service: NewService
) -> None:
    free_batch = {"engine": {"kind": "Simulated", "args": ["--start-seconds=0.2"]}}
    service = await new_service(searching(3, **CLEAR_GAIN) | free_batch)
    await service.condition("Ready", "True", "Searching")
    async with service.users() as users:
        found = await service.decided()
        await users.served(3)
    assert users.failed == 0, users.failures

    status = found.status
    points_by_probe = measured(found)
    assert points_by_probe.keys() == {(3, 2, 256), (3, 3, 256), (1, 1, 512), (2, 2, 256)}
    objective = Objective(min_throughput_gain=0.10, max_energy_increase=0.05)
    committed = [p for p in points.read(status.frontier) if p.probe.committed]
    chosen = choose(committed, objective).chosen.probe
    assert (chosen.replicas, chosen.max_num_seqs) == (2, 256)
    assert status.recommended_replicas_per_pack == 2
    best = points_by_probe[2, 2, 256]
    assert [p for p in status.frontier if p.chosen] == [best]
    assert all(p.why and p.simulated and p.saturated_percent >= 95 for p in status.frontier)
    operating = status.operating_point
    assert operating is not None
    assert operating.output_tokens_per_second == best.output_tokens_per_second
    assert operating.microjoules_per_output_token == best.microjoules_per_output_token

    assert [entry.reason for entry in status.history] == decisions(found)
    assert status.history[-1].to == "2 replicas x 256"
    assert "2 replicas x 256 is Pareto-optimal" in status.history[-1].message
    events = await service.told("KneeFound")
    assert set(events) <= NO_FAULT, events
    rule, _, message = events["KneeFound"].partition("): ")
    assert rule.startswith("StepWorthIt (outputTokensPerSecond ")
    assert message == status.history[-1].message

    state = await service.agent_until("the load has ended", lambda s: s.load.in_flight == 0)
    assert state.plan is not None and state.plan.load is None
    assert (state.plan.layout.replicas, state.plan.rotation) == (2, 2)
    assert state.load.failed == 0, state.load.last_failure
    header, row = (await kubectl(operator_stack, "get", "slm", service.name)).splitlines()
    columns = dict(zip(header.split(), row.split(), strict=True))
    assert columns["PACKS"] == "1" and columns["REPLICAS"] == "2"
    assert columns["TOK/S"] == str(operating.output_tokens_per_second)
    assert columns["J/TOK"] == operating.joules_per_output_token
    assert (columns["READY"], columns["REASON"]) == ("True", "Serving")

    told = json.loads(await slmctl(operator_stack, "explain", service.name, "--output=json"))
    assert (told["runs"]["layout"], told["runs"]["rule"]) == ("2 replicas x 256", "StepWorthIt")
    assert told["runs"]["since"] == status.history[-1].time
    assert told["chosen"]["compared"]["value"] == best.output_tokens_per_second
    alternatives = {
        (p["layoutReplicas"], p["replicasPerPack"], p["maxNumSeqs"]): p["rule"]
        for p in told["alternatives"]
    }
    assert alternatives == {
        (3, 3, 256): "GainTooSmall",
        (1, 1, 512): "LessThroughput",
        (3, 2, 256): "WalkBegan",
    }
    assert [e["rule"] for e in told["history"] if e["rule"] != "RivalAgain"] == [
        "NextInRotation",
        "LargerBatch",
        "OwnLayout",
        "StepWorthIt",
    ]
    text = " ".join((await slmctl(operator_stack, "explain", service.name)).split())
    assert "3 replicas x 256 would have to serve more than" in text
    assert "Trouble none" in text


@pytest.mark.timeout(3 * DECISION_SECONDS)
async def test_an_operator_killed_in_mid_search_resumes_from_the_status(
    operator_stack: Stack, new_service: NewService
) -> None:
    service = await new_service(searching(2, **CLEAR_GAIN))
    await service.condition("Ready", "True", "Searching")
    async with service.users() as users:
        before = await service.until("a point", lambda s: s.status.frontier)
        await operator_stack.operator.kill()
        await operator_stack.start_operator()
        found = await service.decided()
        await users.served(3)
    assert users.failed == 0, users.failures
    assert measured(found).keys() == {(2, 2, 256), (1, 1, 256)}
    assert [entry.reason for entry in found.status.history] == decisions(found)
    kept(before, found)


@pytest.mark.timeout(3 * DECISION_SECONDS)
async def test_recommend_reports_the_knee_and_leaves_the_count_alone(
    new_service: NewService,
) -> None:
    spec = searching(2, mode="Recommend", **CLEAR_GAIN) | {"replicasPerPack": 1}
    service = await new_service(spec)
    await service.decided()
    found = await service.serves(replicas=1)
    assert found.status.recommended_replicas_per_pack == 2
    assert found.status.operating_point is None
    assert found.status.history[-1].reason == "KneeRecommended"
    await service.condition("ScalingActive", "False", "RecommendOnly", "the count stays")
    state = await service.agent_until("the load has ended", lambda s: s.load.in_flight == 0)
    assert state.plan is not None and state.plan.layout.replicas == 1


@pytest.mark.timeout(4 * DECISION_SECONDS)
async def test_a_change_of_the_spec_reopens_the_search(
    new_service: NewService, tmp_path: Path
) -> None:
    service = await new_service(searching(1, **CLEAR_GAIN))
    first = await service.decided()
    assert list(measured(first)) == [(1, 1, 256)]

    async with service.users() as users:
        await service.apply(**searching(2, **CLEAR_GAIN))
        second = await service.decided()
    assert users.failed == 0, users.failures
    assert {(1, 1, 256), (2, 2, 256)} == measured(second).keys()
    assert second.status.recommended_replicas_per_pack == 2

    before = await service.pods()
    other = {"model": {"uri": write_model(tmp_path / "other")}}
    await service.apply(**(searching(1, **CLEAR_GAIN) | other))
    third = await service.decided()
    assert set(await service.pods()) - set(before), "a pack of its own"
    assert list(measured(third)) == [(1, 1, 256)], "points of another model say nothing"
    calibrations = [found.status.calibration for found in (second, third)]
    assert calibrations[0] is not None and calibrations[1] is not None
    assert calibrations[0].fingerprint != calibrations[1].fingerprint
