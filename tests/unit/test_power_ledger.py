"""The cluster's power budget among services that search, run, restart and go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from builders import service
from decide_world import World, condition
from slm_operator.api.status import PowerStatus
from slm_operator.decide.limits import limits
from slm_operator.decide.power import claim
from slm_operator.pareto.power_share import GIVE_BACK_SECONDS
from slm_operator.power_ledger import PowerLedger

ONE, TWO = 335, 443
"""W of one and of two replicas of the published measurements; two is the knee."""


@dataclass
class Clock:
    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


class Cluster:
    """Services, each a World, under one budget. A second passes for all of them at once."""

    def __init__(self, budget_watts: int) -> None:
        self.clock = Clock()
        self.ledger = PowerLedger(budget_watts, self.clock)
        self.worlds: dict[str, World] = {}

    def add(self, uid: str, priority: int = 0, **autoscaling: Any) -> World:
        block = {"maxReplicasPerPack": 4, "powerPriority": priority} | autoscaling
        world = World(service({"autoscaling": block}, uid=uid))
        world.ledger = self.ledger
        self.worlds[uid] = world
        return world

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.seconds += 1
            for world in self.worlds.values():
                world.tick()

    def restart(self) -> None:
        """Another operator, which knows what the statuses hold."""
        self.clock.seconds = 0.0
        self.ledger = PowerLedger(self.ledger.budget_watts, self.clock)
        for world in self.worlds.values():
            world.ledger = self.ledger

    def replicas(self) -> dict[str, int]:
        return {uid: world.plan.layout.replicas for uid, world in self.worlds.items() if world.plan}


@pytest.fixture
def shared() -> Cluster:
    """Two services that would draw 886 W together, and may draw 800 W."""
    cluster = Cluster(800)
    cluster.add("chat", priority=1)
    cluster.add("batch")
    cluster.run(90)
    return cluster


def test_a_claim_is_what_would_be_chosen_under_ever_stricter_limits() -> None:
    world = World(service())
    world.run(60)
    found = claim(world.service)
    assert found is not None
    assert [(round(v.power_watts), round(v.output_tokens_per_second)) for v in found.levels] == [
        (ONE, 7887),
        (TWO, 10642),
    ]
    assert (found.packs, found.priority) == (1, 0)


def test_what_cannot_be_held_back_claims_nothing() -> None:
    world = World(service())
    assert claim(world.service) is None, "nothing is measured"
    world.run(60)
    for change in ({"replicasPerPack": 2}, {"autoscaling": {"mode": "Recommend"}}):
        assert claim(service(change, world.service.status)) is None


def test_a_latency_is_not_given_up_for_the_clusters_watts() -> None:
    world = World(service({"autoscaling": {"maxReplicasPerPack": 4}}))
    world.run(60)
    slow = tuple(
        p.model_copy(update={"itl_p95": "90ms" if p.replicas_per_pack == 1 else "30ms"})
        for p in world.service.status.frontier
    )
    status = world.service.status.model_copy(update={"frontier": slow})
    found = claim(service({"autoscaling": {"slo": {"itlP95": "50ms"}}}, status))
    assert found is not None
    assert [round(level.power_watts) for level in found.levels] == [TWO]


def test_within_the_budget_all_run_their_knee_and_are_told_so() -> None:
    cluster = Cluster(900)
    cluster.add("chat")
    cluster.add("batch")
    cluster.run(90)
    assert cluster.replicas() == {"chat": 2, "batch": 2}
    status, reason, message = condition(cluster.worlds["chat"].tick(), "PowerBudgetMet")
    assert (status, reason) == ("True", "Kept")
    assert (
        message
        == "2 replicas x 256 draws, saturated, 443 W; the cluster's 900 W take nothing off it"
    )
    assert cluster.ledger.allotted_watts == pytest.approx(2 * 443.1, rel=1e-3)


def test_over_the_budget_the_lower_priority_runs_fewer_replicas(shared: Cluster) -> None:
    assert shared.replicas() == {"chat": 2, "batch": 1}
    decision = shared.worlds["batch"].tick()
    assert decision.status.power == PowerStatus(
        cluster_budget_watts=800,
        allotted_watts=ONE,
        limit_watts_per_pack=346,
        given_up_tokens_per_second=2755,
    )
    status, reason, message = condition(decision, "PowerBudgetMet")
    assert (status, reason) == ("True", "PowerShared")
    assert message == (
        "1 replica x 256 draws, saturated, 335 W of 346 W, its share of the cluster's 800 W at "
        "powerPriority 0; 2,755 output tok/s are given up for that"
    )
    assert shared.ledger.allotted_watts <= 800


def test_at_rest_nothing_is_written(shared: Cluster) -> None:
    before = {uid: world.writes for uid, world in shared.worlds.items()}
    shared.run(60)
    assert {uid: world.writes for uid, world in shared.worlds.items()} == before


def test_room_that_lasts_is_given_back(shared: Cluster) -> None:
    del shared.worlds["chat"]
    shared.ledger.forget("chat")
    shared.run(int(GIVE_BACK_SECONDS) - 10)
    assert shared.replicas() == {"batch": 1}
    shared.run(60)
    assert shared.replicas() == {"batch": 2}


def test_a_restarted_operator_lifts_no_limit_before_it_has_seen_all(shared: Cluster) -> None:
    plans = {uid: list(world.probed) for uid, world in shared.worlds.items()}
    shared.restart()
    # The service that is held back is looked at first, and alone for a while.
    for _ in range(20):
        shared.clock.seconds += 1
        shared.worlds["batch"].tick()
    shared.run(60)
    assert {uid: world.probed for uid, world in shared.worlds.items()} == plans


def test_a_budget_that_cannot_be_kept_is_told_with_the_remedy() -> None:
    cluster = Cluster(300)
    cluster.add("chat", minReplicasPerPack=2)
    cluster.run(90)
    assert cluster.replicas() == {"chat": 2}
    status, reason, message = condition(cluster.worlds["chat"].tick(), "PowerBudgetMet")
    assert (status, reason) == ("False", "ClusterPowerExceeded")
    assert "300 W even with each at its least; this one draws 443 W, saturated" in message
    assert "--cluster-power-budget-watts" in message


def test_a_share_and_a_budget_of_its_own_are_both_kept(shared: Cluster) -> None:
    batch = shared.worlds["batch"].service
    strict = service({"autoscaling": {"powerBudgetWatts": 340}}, batch.status)
    loose = service({"autoscaling": {"powerBudgetWatts": 400}}, batch.status)
    assert limits(strict, batch.status.power).power_watts == 340
    assert limits(loose, batch.status.power).power_watts == 346
    assert limits(loose).power_watts == 400
