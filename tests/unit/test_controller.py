"""The order of a pass, and what a refusal of the API server or an agent leads to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from builders import pack_state
from controller_builders import OBJECT, Operator, running_pod
from slm_operator.api.status import SLMServiceStatus
from slm_operator.cluster.agents import AgentError
from slm_operator.cluster.connection import KubeError
from slm_operator.controller import BACKOFF_SECONDS, MOVED_ON_SECONDS, UNREADABLE_RETRY_SECONDS
from slm_operator.keys import Keys, Tokens, agent_token
from slm_operator.metrics import Metrics
from slm_operator.pareto.objective import Limits

FIGURES: dict[str, Any] = {
    "replicasPerPack": 2,
    "maxNumSeqs": 256,
    "outputTokensPerSecond": 10642,
    "powerWatts": 443,
    "measuredAt": "2026-01-01T00:00:00Z",
}
FRONTIER_POINT = FIGURES | {
    "layoutReplicas": 2,
    "confidenceTokensPerSecond": 20,
    "windowSeconds": 30,
    "saturatedPercent": 100,
    "simulated": True,
    "onFrontier": True,
    "chosen": True,
    "why": "the most throughput",
}
POWER_GAUGE = 'slm_operating_point_power_watts{name="chat",namespace="default"}'


@pytest.fixture
def operator() -> Operator:
    return Operator()


async def test_the_first_pass_writes_the_status_then_the_children(operator: Operator) -> None:
    await operator.reconcile()
    assert operator.kube.done == [
        "get SLMService chat",
        "apply SLMService status",
        "apply Secret",
        "apply Service",
        "apply Service",
        "apply PodDisruptionBudget",
        "apply Pod",
    ]


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(None, id="gone"),
        pytest.param({"uid": "u2", "generation": 1}, id="another one of its name"),
        pytest.param({"uid": "u1", "generation": 0}, id="an older copy restored"),
        pytest.param({"uid": "u1", "generation": 2}, id="changed"),
        pytest.param(
            {"uid": "u1", "generation": 1, "deletionTimestamp": "2026-01-01T00:00:00Z"},
            id="being deleted",
        ),
    ],
)
async def test_no_pack_is_made_for_a_spec_that_is_no_more(
    operator: Operator, stored: dict[str, Any] | None
) -> None:
    operator.kube.stored = stored and {"metadata": stored}
    assert await operator.reconcile() == MOVED_ON_SECONDS
    assert operator.kube.done == ["get SLMService chat"], "nothing is written"
    operator.kube.stored = OBJECT
    await operator.reconcile()
    assert "apply Pod" in operator.kube.done


async def test_a_pass_without_change_writes_nothing(operator: Operator) -> None:
    for _ in range(3):
        await operator.reconcile(running_pod())
    before = len(operator.kube.done)
    operator.agents.answer = pack_state(operator.agents.plans[-1])
    await operator.reconcile(running_pod())
    settled = len(operator.kube.done)
    for _ in range(5):
        await operator.reconcile(running_pod())
    assert len(operator.kube.done) == settled
    assert settled - before <= 2


async def test_a_share_of_the_clusters_power_is_in_the_status_and_no_write_at_rest() -> None:
    operator = Operator(cluster_power_budget_watts=800)
    for _ in range(3):
        await operator.reconcile(running_pod())
    assert operator.kube.statuses[-1]["power"]["clusterBudgetWatts"] == 800
    writes = len(operator.kube.statuses)
    for _ in range(3):
        await operator.reconcile(running_pod())
    assert len(operator.kube.statuses) == writes
    assert "slm_cluster_power_budget_watts 800.0" in operator.exposed()
    assert "slm_cluster_power_allotted_watts 0.0" in operator.exposed()


async def test_no_plan_is_sent_that_the_status_does_not_hold(operator: Operator) -> None:
    operator.kube.refuse = lambda what: what.endswith("status")
    await operator.reconcile(running_pod())
    assert operator.agents.plans == []
    operator.kube.refuse = lambda _: False
    await operator.reconcile(running_pod())
    assert [p.rotation for p in operator.agents.plans] == [2]


async def test_a_pack_that_is_refused_keeps_no_other_from_its_plan(operator: Operator) -> None:
    operator.kube.refuse = lambda what: what == "apply PodDisruptionBudget"
    await operator.reconcile(running_pod())
    assert [p.rotation for p in operator.agents.plans] == [2]
    await operator.reconcile(running_pod())
    assert operator.ready()["reason"] == "Forbidden"


async def test_no_plan_is_sent_while_the_api_server_is_away(operator: Operator) -> None:
    operator.kube.refusal = KubeError(503, "Unavailable", "try later")
    operator.kube.refuse = lambda what: what == "apply PodDisruptionBudget"
    await operator.reconcile(running_pod())
    assert operator.agents.plans == []


async def test_refusals_are_tried_again_with_backoff_and_heal(operator: Operator) -> None:
    operator.kube.refuse = lambda what: what == "apply Secret"
    delays = [await operator.reconcile() for _ in range(6)]
    assert delays == [*BACKOFF_SECONDS, BACKOFF_SECONDS[-1]]
    assert operator.ready()["reason"] == "Forbidden"
    operator.kube.refuse = lambda _: False
    await operator.reconcile(running_pod())
    await operator.reconcile(running_pod())
    assert operator.ready()["status"] == "True"


@pytest.mark.parametrize("status", [0, 429, 500, 503])
async def test_an_outage_is_logged_and_does_not_lower_ready(
    operator: Operator, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        await operator.reconcile(running_pod())
    assert operator.ready()["status"] == "True"
    operator.kube.refusal = KubeError(status, "Unavailable", "try later")
    operator.kube.refuse = lambda what: what.startswith("apply Secret")
    operator.controller.owned.forget("u1")
    assert await operator.reconcile(running_pod()) == BACKOFF_SECONDS[0]
    assert "try later" in caplog.text
    operator.kube.refuse = lambda _: False
    await operator.reconcile(running_pod())
    assert operator.ready()["status"] == "True"


async def test_a_busy_api_server_is_left_alone_for_as_long_as_it_asks(operator: Operator) -> None:
    operator.kube.refusal = KubeError(429, "TooManyRequests", "busy", retry_after_seconds=9)
    operator.kube.refuse = lambda _: True
    assert await operator.reconcile() == 9


async def test_an_outage_does_not_hide_a_refusal(operator: Operator) -> None:
    operator.kube.refuse = lambda what: what == "apply Secret"
    await operator.reconcile(running_pod())
    operator.kube.refusal = KubeError(503, "Unavailable", "try later")
    await operator.reconcile(running_pod())
    await operator.reconcile(running_pod())
    assert operator.ready()["reason"] == "Forbidden"


async def test_a_refused_event_does_not_stop_the_pass(
    operator: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    operator.kube.refuse = lambda what: what.startswith("event")
    pod = running_pod()
    pod["status"]["containerStatuses"] = [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]
    assert await operator.reconcile(pod) not in BACKOFF_SECONDS[:1]
    assert "apply Service" in operator.kube.done
    assert "no event: Forbidden: not allowed" in caplog.text


async def test_an_object_that_cannot_be_read_is_named_counted_and_retried_slowly(
    operator: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    spec = {**OBJECT["spec"], "engine": {"maxNumSeqs": "s3cret"}}
    assert await operator.reconcile(spec=spec) == UNREADABLE_RETRY_SECONDS
    assert "default/chat cannot be read" in caplog.text
    assert "spec.engine.maxNumSeqs: " in caplog.text
    assert "s3cret" not in caplog.text
    assert await operator.reconcile(status={"packs": "many"}) == UNREADABLE_RETRY_SECONDS
    assert "status.packs: " in caplog.text
    counted = 'slm_operator_reconcile_failures_total{reason="UnreadableObject"} 2.0'
    assert counted in operator.exposed()
    assert operator.kube.done == []


async def test_a_restarted_operator_shows_the_operating_point_that_the_status_holds(
    operator: Operator,
) -> None:
    await operator.reconcile()
    stored = operator.kube.statuses[-1] | {
        "frontier": [FRONTIER_POINT],
        "operatingPoint": FIGURES,
        "recommendedReplicasPerPack": 2,
    }
    restarted = Operator()
    for _ in range(2):
        await restarted.reconcile(status=stored)
    assert restarted.kube.statuses == []
    assert f"{POWER_GAUGE} 443.0" in restarted.exposed()


async def test_what_was_restored_is_mended(operator: Operator) -> None:
    for _ in range(3):
        await operator.reconcile(running_pod())
    newest = operator.kube.statuses[-1]
    older = newest | {"readyPacks": 0, "conditions": []}
    operator.kube.done.clear()
    await operator.reconcile(running_pod(), status=older)
    assert operator.kube.done == [], "the watch may still show an older one"
    operator.controller.forget("u1")
    await operator.reconcile(running_pod(), status=older)
    applied = [done for done in operator.kube.done if done.startswith("apply")]
    assert applied == [
        "apply SLMService status",
        "apply Secret",
        "apply Service",
        "apply Service",
        "apply PodDisruptionBudget",
    ]
    assert operator.ready()["status"] == "True"


def test_a_figure_that_becomes_unknown_is_shown_no_longer() -> None:
    metrics = Metrics()
    known = SLMServiceStatus.model_validate({"operatingPoint": FIGURES})
    for status, shown in ((known, True), (SLMServiceStatus(), False), (SLMServiceStatus(), False)):
        metrics.show("default", "chat", status, Limits())
        assert (POWER_GAUGE in generate_latest(metrics.registry).decode()) is shown


def test_metrics_tell_packs_replicas_and_conditions_of_each_service() -> None:
    metrics = Metrics()
    waiting = {
        "status": "False",
        "reason": "Starting",
        "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    conditions = [
        {"type": "Ready", "observedGeneration": 1} | waiting,
        {"type": "Calibrated", "observedGeneration": 1} | waiting | {"status": "Unknown"},
    ]
    known = SLMServiceStatus.model_validate(
        {"packs": 2, "desiredPacks": 3, "readyPacks": 1, "replicas": 4, "conditions": conditions}
    )

    def value(name: str, service: str, **labels: str) -> float | None:
        of = {"namespace": "default", "name": service} | labels
        return metrics.registry.get_sample_value(name, of)

    metrics.show("default", "chat", known, Limits(ttft_p95_seconds=0.5, power_watts=400))
    metrics.show("default", "other", SLMServiceStatus(), Limits())
    assert value("slm_service_packs", "chat", state="desired") == 3
    assert value("slm_service_packs", "other", state="desired") is None
    assert value("slm_service_replicas", "chat", state="started") == 4
    assert value("slm_service_condition", "chat", type="Ready", reason="Starting") == 0
    assert value("slm_service_condition", "chat", type="Calibrated", reason="Starting") is None
    assert value("slm_service_slo_ttft_p95_seconds", "chat") == 0.5
    assert value("slm_service_slo_itl_p95_seconds", "chat") is None
    assert value("slm_service_power_budget_watts", "chat") == 400
    assert value("slm_service_power_budget_watts", "other") is None
    metrics.decided("default", "chat", "KneeFound", 12.0)
    assert value("slm_decision_timestamp_seconds", "chat", reason="KneeFound") == 12
    assert metrics.registry.get_sample_value("slm_decisions_total", {"reason": "KneeFound"}) == 1
    metrics.forget("default", "chat")
    left = generate_latest(metrics.registry).decode()
    assert 'name="chat"' not in left
    assert 'name="other"' in left


async def test_a_plan_that_the_agent_refuses_becomes_the_reason_of_ready(
    operator: Operator,
) -> None:
    operator.agents.refusal = AgentError("DoesNotFit", "3 replicas fit")
    await operator.reconcile(running_pod())
    await operator.reconcile(running_pod())
    assert operator.ready()["reason"] == "DoesNotFit"
    assert operator.ready()["message"] == "chat-pack-0: 3 replicas fit"


async def test_a_stale_generation_is_only_read_again(operator: Operator) -> None:
    operator.agents.refusal = AgentError("StaleGeneration", "newer plan")
    await operator.reconcile(running_pod())
    await operator.reconcile(running_pod())
    assert operator.ready()["reason"] != "StaleGeneration"


async def test_a_refused_token_has_the_secret_written_again(operator: Operator) -> None:
    await operator.reconcile(running_pod())
    operator.agents.answer = AgentError("AgentRefusedToken", "401")
    operator.kube.done.clear()
    await operator.reconcile(running_pod())
    assert "apply Secret" in operator.kube.done


async def test_another_key_has_the_secret_written_and_agents_asked_with_both_tokens(
    tmp_path: Path,
) -> None:
    file = tmp_path / "key"
    file.write_text("a" * 32)
    operator = Operator(keys=Keys.from_file(file))
    await operator.reconcile(running_pod())
    file.write_text("b" * 32)
    operator.kube.done.clear()
    await operator.reconcile(running_pod())
    new, old = agent_token("b" * 32, "u1"), agent_token("a" * 32, "u1")
    assert operator.agents.asked_with == [Tokens(old), Tokens(new, old)]
    assert operator.kube.done == ["apply Secret"]
    assert operator.kube.secrets == [{"token": old}, {"token": new}]


async def test_before_a_pack_is_created_its_secret_is_written_again(operator: Operator) -> None:
    await operator.reconcile(running_pod())
    operator.kube.done.clear()
    await operator.reconcile()
    written = operator.kube.done
    assert written.index("apply Secret") < written.index("apply Pod")


async def test_a_profile_is_looked_for_once_when_a_search_begins(operator: Operator) -> None:
    for _ in range(3):
        await operator.reconcile(running_pod())
    assert operator.kube.done.count("get ConfigMap slm-profiles") == 1


async def test_no_profile_is_looked_for_where_nothing_is_searched(operator: Operator) -> None:
    fixed = OBJECT["spec"] | {"replicasPerPack": 2}
    for _ in range(3):
        await operator.reconcile(running_pod(), spec=fixed)
    assert "get ConfigMap slm-profiles" not in operator.kube.done


async def test_a_profile_that_may_not_be_read_holds_nothing_up(operator: Operator) -> None:
    operator.kube.refuse = lambda what: what.startswith("get")
    await operator.reconcile(running_pod())
    assert "event ProfileIgnored" in operator.kube.done
    assert operator.agents.plans
