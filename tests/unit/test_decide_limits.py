"""Objective, SLO and power budget of the spec, as passes hold them against what was measured."""

from __future__ import annotations

from typing import Any

import pytest

from builders import pack, pack_state, service
from decide_world import World, condition, look
from slm_operator.api.models import SLMService
from slm_operator.decide.calibrate import plan
from slm_operator.decide.limits import PREEMPTION_STORM, limits, objective
from slm_operator.decide.snapshot import Pack
from slm_operator.pareto.objective import Limits, Objective
from slm_operator.pareto.points import Probe


def scaled(**autoscaling: Any) -> SLMService:
    return service({"autoscaling": {"maxReplicasPerPack": 4} | autoscaling})


def test_the_spec_is_read_with_its_units() -> None:
    wanted = scaled(
        objective="MinEnergyPerToken",
        slo={"ttftP95": "0.5s", "itlP95": "12.5ms"},
        powerBudgetWatts=400,
        minThroughputGainPercent=4,
        maxEnergyIncreasePercent=6,
    )
    assert objective(wanted) == Objective("MinEnergyPerToken", 0.04, 0.06)
    assert limits(wanted) == Limits(
        ttft_p95_seconds=0.5,
        itl_p95_seconds=0.0125,
        power_watts=400,
        preemptions_per_request=PREEMPTION_STORM,
    )
    assert limits(service()) == Limits(preemptions_per_request=PREEMPTION_STORM)


def test_without_limits_the_conditions_say_so() -> None:
    decision = World(service()).run(60)
    assert condition(decision, "SLOMet")[:2] == ("True", "NoLimit")
    assert condition(decision, "PowerBudgetMet")[:2] == ("True", "NoLimit")


def test_a_power_budget_bounds_the_replicas() -> None:
    world = World(scaled(powerBudgetWatts=400))
    first = world.tick()
    assert condition(first, "PowerBudgetMet")[:2] == ("Unknown", "NotMeasured")
    decision = world.run(90)
    assert decision.status.recommended_replicas_per_pack == 1
    assert condition(decision, "PowerBudgetMet") == (
        "True",
        "Kept",
        "1 replica x 256 draws, saturated, 335 W of 400 W",
    )
    why = {p.replicas_per_pack: p.why for p in decision.status.frontier}
    assert why[2] == "443 W exceeds the power budget of 400 W"


def test_a_budget_is_not_kept_yet_by_packs_in_a_layout_that_draws_more() -> None:
    world = World(scaled(powerBudgetWatts=400))
    world.run(90)
    two = service(
        {"packs": 3, "autoscaling": {"maxReplicasPerPack": 4, "powerBudgetWatts": 400}},
        world.service.status,
    )

    def other(replicas: int, ordinal: int) -> Pack:
        layout = plan(Probe(replicas, replicas, 256), None, None)
        return pack(pack_state(layout), ordinal)

    for replicas in (2, 4):
        packs = pack(world.state()), other(replicas, 1), other(replicas, 2)
        said = condition(look(two, *packs, memory=world.memory), "PowerBudgetMet")
        assert said == (
            "Unknown",
            "LayoutChanging",
            "1 replica x 256 draws, saturated, 335 W of 400 W; until their turn chat-pack-1, "
            "chat-pack-2 serve in layouts that may draw more",
        )
    packs = pack(world.state()), other(1, 1), pack(pack_state(), 2)
    said = condition(look(two, *packs, memory=world.memory), "PowerBudgetMet")
    assert said[:2] == ("True", "Kept")


def test_one_that_is_behind_in_a_layout_that_draws_less_keeps_the_budget() -> None:
    world = World(scaled(powerBudgetWatts=450))
    chosen = world.run(90).status.recommended_replicas_per_pack
    assert chosen == 2
    two = service(
        {"packs": 2, "autoscaling": {"maxReplicasPerPack": 4, "powerBudgetWatts": 450}},
        world.service.status,
    )
    fewer = pack(pack_state(plan(Probe(1, 1, 256), None, None)), 1)
    decision = look(two, pack(world.state()), fewer, memory=world.memory)
    assert [p.layout.replicas for _, p in decision.plans] == [2], "it is behind"
    assert condition(decision, "PowerBudgetMet")[:2] == ("True", "Kept")


def test_a_budget_that_no_point_keeps_runs_the_nearest_and_says_so() -> None:
    decision = World(scaled(powerBudgetWatts=300)).run(90)
    assert decision.status.recommended_replicas_per_pack == 1
    status, reason, message = condition(decision, "PowerBudgetMet")
    assert (status, reason) == ("False", "PowerAboveBudget")
    assert message.startswith("1 replica x 256: 335 W exceeds the power budget of 300 W")
    assert [e.reason for e in decision.status.history][-1] == "KneeFound"
    assert condition(decision, "Calibrated")[0] == "True"
    (chosen,) = [p for p in decision.status.frontier if p.chosen]
    assert not chosen.on_frontier


def test_a_latency_that_no_point_keeps_is_told_with_both_numbers() -> None:
    world = World(scaled(slo={"itlP95": "10ms"}), itl_seconds=0.037)
    decision = world.run(90)
    status, reason, message = condition(decision, "SLOMet")
    assert (status, reason) == ("False", "LatencyAboveSLO")
    assert message.startswith("1 replica x 256: ITL p95 37")
    assert "exceeds the limit of 10.0 ms" in message
    assert "leave spec.engine.maxNumSeqs out" in message


def test_a_latency_that_is_kept_is_told_too() -> None:
    decision = World(scaled(slo={"itlP95": "0.05s"}), itl_seconds=0.037).run(90)
    status, reason, message = condition(decision, "SLOMet")
    assert (status, reason) == ("True", "Kept")
    assert "ITL p95 37" in message and "of 50.0 ms" in message


@pytest.mark.parametrize("kind", ["MaxThroughput", "MinEnergyPerToken"])
def test_other_objectives_are_searched_too(kind: str) -> None:
    decision = World(scaled(objective=kind)).run(90)
    assert decision.status.recommended_replicas_per_pack == 2
    assert condition(decision, "Calibrated")[:2] == ("True", "KneeFound")


def test_a_limit_that_comes_later_is_held_against_what_was_measured() -> None:
    world = World(service())
    world.run(60)
    world.service = scaled(powerBudgetWatts=400).model_copy(
        update={"status": world.service.status, "generation": 2}
    )
    decision = world.run(60)
    assert decision.status.recommended_replicas_per_pack == 1
    assert condition(decision, "PowerBudgetMet")[:2] == ("True", "Kept")
