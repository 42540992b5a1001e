"""What the rollout benchmark computes by itself: who is led to, what a budget allows, figures."""

from array import array
from typing import Any

import pytest

from benchmarks.rollout import Outcome, figures
from benchmarks.rollout_rig.clients import Count
from benchmarks.rollout_rig.drain import budget_status
from benchmarks.rollout_rig.front import answers


def pod(number: int = 0, *, ready: bool = True, ends: bool = False) -> dict[str, Any]:
    metadata = {"name": f"chat-pack-{number}"} | ({"deletionTimestamp": "now"} if ends else {})
    conditions = [{"type": "Ready", "status": str(ready)}]
    return {"metadata": metadata, "status": {"conditions": conditions}}


@pytest.mark.parametrize(
    ("found", "led_to"),
    [
        (pod(), True),
        (pod(ready=False), False),
        (pod(ends=True), False),
        ({"metadata": {}, "status": {}}, False),
    ],
    ids=["ready", "not ready", "ending", "new"],
)
def test_new_connections_go_to_packs_that_are_ready_and_stay(
    found: dict[str, Any], led_to: bool
) -> None:
    assert answers(found) is led_to


@pytest.mark.parametrize(
    ("pods", "allowed"),
    [
        ([pod(0), pod(1), pod(2)], 1),
        ([pod(0), pod(1), pod(2, ends=True)], 0),
        ([pod(0), pod(1), pod(2, ready=False)], 0),
        ([pod(0)], 0),
    ],
    ids=["all ready", "one ends", "one starts", "below"],
)
def test_a_budget_allows_what_is_healthy_beyond_its_least(
    pods: list[dict[str, Any]], allowed: int
) -> None:
    status = budget_status({"metadata": {"generation": 4}, "spec": {"minAvailable": 2}}, pods)
    assert (status["disruptionsAllowed"], status["observedGeneration"]) == (allowed, 4)


def test_a_pack_whose_eviction_was_granted_is_not_healthy_and_is_noted_until_it_ends() -> None:
    budget = {
        "metadata": {"generation": 1},
        "spec": {"minAvailable": 1},
        "status": {"disruptedPods": {"chat-pack-0": "now", "chat-pack-1": "then"}},
    }
    status = budget_status(budget, [pod(0), pod(1, ends=True), pod(2)])
    assert (status["currentHealthy"], status["disruptionsAllowed"]) == (1, 0)
    assert status["disruptedPods"] == {"chat-pack-1": None}


def test_figures_name_each_scenario() -> None:
    count = Count(sent=3, completed=2, retried=1, lost=1, seconds=array("d", [0.5, 0.25]))
    shown = figures([Outcome("takeover", count, 12.0)])
    assert (shown["takeover_sent"], shown["takeover_completed"], shown["takeover_lost"]) == (
        3,
        2,
        1,
    )
    assert (shown["takeover_p99_seconds"], shown["takeover_step_seconds"]) == (0.5, 12.0)
